"""Which uploads belong together; DICOM in zips and loose files."""

import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

from app import uploads
from app.uploads import gather, key, pairs, truths_of
from iris_core.case import InputError
from nnunet_adapters.images import read_scan

A, B = Path("a.nii.gz"), Path("B.nii.gz")


def test_a_scan_and_its_mask_have_one_key():
    assert key(Path("case_7.nii.gz")) == key(Path("case_7_seg.nii.gz")) == "case_7"
    assert {key(Path(f"p 1{word}.nrrd")) for word in ("", "_mask", "-SEG", " labels", "_mask_corrected")} == {"p 1"}
    assert key(Path("mask2.nii")) == "mask2"


def test_pairs_go_by_name_where_all_match_and_else_by_order():
    by_name = [Path("b_mask.nii.gz"), Path("a_mask.nii.gz")]
    assert pairs([A, B], by_name) == [(A, by_name[1]), (B, by_name[0])]
    odd = [Path("x.nii.gz"), Path("a_mask.nii.gz")]
    assert pairs([A, B], odd) == [(A, odd[0]), (B, odd[1])]
    with pytest.raises(InputError, match="got 2 scans and 1 masks"):
        pairs([A, B], odd[:1])


def test_channels_are_left_out_and_patients_numbers_are_not():
    for scan, mask in (("case_7_0000", "case_7"), ("case_7_0000", "case_7_0000_mask"), ("case_7", "case_7_0000_mask")):
        pair = Path(f"{scan}.nii.gz"), Path(f"{mask}.nii.gz")
        assert pairs([A, pair[0]], [pair[1], Path("a_seg.nii.gz")]) == [(A, Path("a_seg.nii.gz")), pair]
    for channel in ("", "_0000"):
        scans = [Path(f"p_{i:04}{channel}.nii.gz") for i in (1, 2)]
        masks = [Path(f"p_{i:04}_mask.nii.gz") for i in (2, 1)]
        assert pairs(scans, masks) == [(scans[0], masks[1]), (scans[1], masks[0])]
        assert truths_of(scans, masks[:1]) == {scans[1]: masks[0]}


def test_true_masks_find_their_queries():
    assert truths_of([A], [Path("whatever.nii.gz")]) == {A: Path("whatever.nii.gz")}
    assert truths_of([A, B], [Path("b_mask.nii.gz")]) == {B: Path("b_mask.nii.gz")}
    with pytest.raises(InputError, match="no query has this name"):
        truths_of([A, B], [Path("c.nii.gz")])
    with pytest.raises(InputError, match=r"a_seg\.nii\.gz: a\.nii\.gz has a true mask already, a_mask\.nii\.gz"):
        truths_of([A, B], [Path("a_mask.nii.gz"), Path("a_seg.nii.gz")])


def test_a_zip_of_a_series_and_its_loose_files_are_one_scan_each(tmp_path):
    series = write_series(tmp_path / "dicom")
    files = sorted(series.iterdir())
    with zipfile.ZipFile(tmp_path / "scan 1.zip", "w") as packed:
        for file in files:
            packed.write(file, f"../../{file.name}")
    found = gather([tmp_path / "scan 1.zip", *files, A], tmp_path / "out")
    packed, loose, plain = found
    assert [packed.name, loose.name, plain] == ["scan 1", "series", A]
    assert found[packed] == (tmp_path / "scan 1.zip",) and found[loose] == tuple(files)
    images = [read_scan(folder).image for folder in (series, packed, loose)]
    assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])
    assert not list(tmp_path.parent.glob("*.dcm"))


def test_bad_archives_are_refused(tmp_path, monkeypatch):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"bad\.zip: must be a zip"):
        gather([bad], tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(10_000))
    damaged = tmp_path / "damaged.zip"
    content = (tmp_path / "big.zip").read_bytes()
    damaged.write_bytes(content[:35] + b"\xff" * 6 + content[41:])
    with pytest.raises(InputError, match=r"damaged\.zip: must be a zip"):
        gather([damaged], tmp_path / "out")
    monkeypatch.setattr(uploads, "MAX_BYTES", 9_999)
    with pytest.raises(InputError, match="split it"):
        gather([tmp_path / "big.zip"], tmp_path / "out")
    loose = tmp_path / "no.dcm"
    loose.write_bytes(b"no dicom")
    with pytest.raises(InputError, match=r"no\.dcm: is no DICOM"):
        gather([loose], tmp_path / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_refused_whichever_byte_it_is(tmp_path, method):
    """zipfile raises OSError, IndexError and others of its own; here the last bytes and the directory."""
    whole, damaged = tmp_path / "whole.zip", tmp_path / "damaged.zip"
    with zipfile.ZipFile(whole, "w", method) as packed:
        packed.writestr("0.dcm", bytes(range(256)))
    content = whole.read_bytes()
    refused = 0
    for at in range(content.index(b"PK\1\2") - 60, len(content)):
        damaged.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
        try:
            gather([damaged], tmp_path / "out")
        except InputError as error:
            assert str(error).startswith("damaged.zip: must be a zip of one DICOM series")
            refused += 1
    assert refused > 30


def test_a_full_disk_is_not_called_a_damaged_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(2**24))
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**23, former[1]))
    try:
        with pytest.raises(OSError, match="large"):
            gather([tmp_path / "big.zip"], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
