"""DICOM elements that promise more than their file holds: refused before GDCM takes gigabytes, and keeps them."""

import struct

import numpy as np
import pytest
from dicom_files import SHAPE, noise, write_series
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from app.uploads import gather
from iris_core.case import InputError
from nnunet_adapters.dicom_lengths import check_lengths
from nnunet_adapters.images import read_scan
from nnunet_adapters.masks.dicom_files import kind_of


@pytest.fixture
def series(tmp_path):
    return write_series(tmp_path / "series")


def spoilt(series, old: bytes, new: bytes):
    file = min(series.iterdir())
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    return file


LENGTHS = {
    "of the pixels": (b"\xe0\x7f\x10\x00OW\0\0", b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\x7f"),
    "of a text": (b"\x08\0\x60\0CS\x02\0", b"\x08\0\x60\0UT\0\0\xff\xff\xff\x7f"),
    "of the syntax, in a kind that there is not": (b"\x02\0\x10\0UI", b"\x02\0\x10\0UY"),
    "in a sequence in another": (
        b"\x10\0\x10\0PN",
        b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\x40\x11SQ\0\0\x30\0\0\0\xfe\xff\0\xe0"
        b"\x28\0\0\0\x08\0\x50\x11UN\0\0\0\0\0\x70\x10\0\x10\0PN",
    ),
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_untrue_lengths_do_not_reach_gdcm(series, kind, tmp_path):
    file = spoilt(series, *LENGTHS[kind])
    for read in (lambda: read_scan(series), lambda: gather([file], tmp_path / "out"), lambda: kind_of(file)):
        with pytest.raises(InputError, match=rf"{file.name}: its element .* promises \d+ bytes.*cut off or damaged"):
            read()


def test_a_slice_that_is_cut_off_is_refused(series):
    file = min(series.iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="7fe0,0010 promises"):
        read_scan(series)


def test_what_inflates_unchecked_is_refused(series):
    file = min(series.iterdir())
    dataset = dcmread(file)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(file)
    with pytest.raises(InputError, match="must not be deflated"):
        read_scan(series)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_plain_forms_are_read(tmp_path, series, syntax):
    for file in series.iterdir():
        read, dataset = dcmread(file), Dataset()
        dataset.update(read)
        dataset.file_meta = read.file_meta
        dataset.file_meta.TransferSyntaxUID = syntax
        item = Dataset()
        item.CodeValue = "1"
        dataset.AnatomicRegionSequence = [item]
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dcmwrite(file, dataset, enforce_file_format=True)
        assert not check_lengths(file)
    assert np.array_equal(read_scan(series).image, noise())


def test_packed_pixels_are_told(series):
    for file in series.iterdir():
        dataset = dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
        assert check_lengths(file)


def test_fragments_may_hold_anything(tmp_path, series):
    """Bytes of packed pixels are no elements, whatever they spell."""
    file = min(series.iterdir())
    dataset = dcmread(file)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([b"\x08\0\x18\0UT\0\0\xff\xff\xff\x7f" * 9])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(file)
    assert check_lengths(file)


def test_other_files_are_let_through(tmp_path):
    for name, content in {"a": b"", "b": b"notes" * 99, "c": struct.pack("<Q", 2**63) * 99}.items():
        (tmp_path / name).write_bytes(content)
        assert not check_lengths(tmp_path / name)


def test_elements_without_end_are_refused_at_once(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + b"\x08\0\x01\0UI\0\0" * 2**20)
    with pytest.raises(InputError, match=r"a\.dcm: a DICOM file must have \d+ elements at most"):
        check_lengths(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: setattr(d, "SamplesPerPixel", 2), "holds a damaged DICOM file"),
        (lambda d: (setattr(d, "Rows", 30_000), setattr(d, "Columns", 30_000)), "evenly spaced"),
    ],
    ids=["samples", "size"],
)
def test_one_slice_that_says_something_else(series, change, match):
    file = min(series.iterdir())
    dataset = dcmread(file)
    change(dataset)
    dataset.save_as(file)
    with pytest.raises(InputError, match=match):
        read_scan(series)


def test_slices_larger_than_their_files_can_hold(tmp_path):
    series = write_series(tmp_path / "large", Rows=20_000, Columns=20_000)
    with pytest.raises(InputError, match=f"{SHAPE[2]} slices of .* bytes can hold"):
        read_scan(series)
