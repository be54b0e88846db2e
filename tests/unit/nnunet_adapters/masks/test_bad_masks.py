"""Masks that cannot be used: a message that names the file, at once, and nothing left behind."""

import json
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, write_series
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from iris_core.case import InputError
from nnunet_adapters.images import read_reference, read_scan
from nnunet_adapters.masks import WRITERS, format_of, read_mask
from nnunet_adapters.masks.mask import Structure

STRUCTURES = [Structure(1, "one", (1, 2, 3)), Structure(2, "two", (4, 5, 6))]


@pytest.fixture
def series(tmp_path):
    return write_series(tmp_path / "series")


def some_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[1:4, 1:4, 1:3], labels[5:8, 2:5, 2:4] = 1, 2
    return labels


def refused(series, path, match):
    started = time.perf_counter()
    with pytest.raises(InputError, match=match) as raised:
        read_reference(series, path)
    assert path.name in str(raised.value)
    assert time.perf_counter() - started < 5


def broken(series, tmp_path, format, change):
    """A file of a format, its pydicom data set changed."""
    path = tmp_path / "a.dcm"
    WRITERS[format](some_labels(), series, STRUCTURES, path)
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def every_contour(dataset):
    return [c for roi in dataset.ROIContourSequence for c in roi.ContourSequence]


def move(contours, by):
    for contour in contours:
        contour.ContourData = (np.array(contour.ContourData, float).reshape(-1, 3) + by).ravel().tolist()


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 500])
def test_files_that_are_no_dicom(series, tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    refused(series, tmp_path / "a.dcm", "DICOM")


def test_a_slice_of_the_scan_and_a_folder_are_no_masks(series):
    with pytest.raises(InputError, match="must be a segmentation"):
        format_of(next(series.iterdir()))
    with pytest.raises(InputError, match="this is a folder"):
        format_of(series)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: setattr(d, "NumberOfFrames", 10**6), "must hold its frames"),
        (lambda d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535)), "must hold its frames"),
        (lambda d: delattr(d, "PixelData"), "is no segmentation"),
        (lambda d: setattr(d, "SegmentSequence", d.SegmentSequence[:1]), "must be of a segment"),
        (lambda d: setattr(d.SegmentSequence[1], "SegmentLabel", "one"), "name of its own"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "frame of reference"),
        (
            lambda d: setattr(
                d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0], "ImagePositionPatient", [-20, 31, 3e7]
            ),
            "is it another's|no segmentation",
        ),
    ],
    ids=["frames", "rows", "pixels", "segments", "names", "frame of reference", "far away"],
)
def test_dicom_segmentations(series, tmp_path, change, match):
    refused(series, broken(series, tmp_path, "dicom-seg", change), match)


def test_overlapping_dicom_segments(series, tmp_path):
    def overlap(dataset):
        frames = dataset.PerFrameFunctionalGroupsSequence
        first, other = (
            next(f for f in frames if f.SegmentIdentificationSequence[0].ReferencedSegmentNumber == n) for n in (1, 2)
        )
        first.PlanePositionSequence = other.PlanePositionSequence
        first.FrameContentSequence[0].DimensionIndexValues[1:] = other.FrameContentSequence[0].DimensionIndexValues[1:]
        dataset.PixelData = b"\xff" * len(dataset.PixelData)

    refused(series, broken(series, tmp_path, "dicom-seg", overlap), "must not overlap")


def test_what_would_be_unpacked_unchecked(series, tmp_path):
    path = tmp_path / "a.dcm"
    WRITERS["rtstruct"](some_labels(), series, STRUCTURES, path)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    refused(series, path, "must not be deflated")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: move(every_contour(d), (0, 0, 1)), "must lie in slices"),
        (lambda d: move(every_contour(d), (0, 0, 300)), "outside"),
        (lambda d: move(every_contour(d), (50, 0, 0)), "outside"),
        (lambda d: move(every_contour(d)[:2], (2, 0, 0)), "share"),
        (lambda d: setattr(every_contour(d)[0], "ContourData", [1.0, 2.0]), "is no RTSTRUCT"),
        (lambda d: delattr(d, "ROIContourSequence"), "is no RTSTRUCT"),
        (lambda d: [setattr(c, "ContourGeometricType", "POINT") for c in every_contour(d)], "closed contours"),
        (lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", 99), "is no RTSTRUCT"),
        (lambda d: setattr(d.StructureSetROISequence[0], "ROIName", "two"), "name of its own"),
    ],
    ids=["between", "beyond", "aside", "overlap", "two numbers", "none", "points", "nobody's", "names"],
)
def test_contours(series, tmp_path, change, match):
    refused(series, broken(series, tmp_path, "rtstruct", change), match)


def test_contours_that_would_take_for_ever(series, tmp_path):
    def scribble(dataset):
        contour = every_contour(dataset)[0]
        z = contour.ContourData[2]
        points = np.tile([[-20, 31, z], [-16, 35, z]], (20_000, 1))
        contour.ContourData = points.ravel().tolist()

    refused(series, broken(series, tmp_path, "rtstruct", scribble), "too many")


def segments(path, **fields):
    """A .seg.nrrd of one voxel of 1 in 4³, its header's fields changed; None takes one away."""
    voxels = np.zeros((4, 4, 4), np.uint8)
    voxels[1, 1, 1] = 1
    image = sitk.GetImageFromArray(voxels)
    about = {"ID": "a", "Name": "one", "LabelValue": "1", "Layer": "0", "Color": "1 0 0"} | fields
    for key, value in about.items():
        if value is not None:
            image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"ID": None}, "must name its segments"),
        ({"LabelValue": "x"}, "damaged"),
        ({"LabelValue": "4000000000"}, "must lie in a layer"),
        ({"Layer": "7"}, "must lie in a layer"),
        ({"LabelValue": "2"}, "every label must be a segment's"),
        ({"Name": " "}, "name of its own"),
        ({"Color": "red 0 0"}, "damaged"),
    ],
)
def test_slicers_segmentations(tmp_path, fields, match):
    scan = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.diag([-1.0, -1, 1, 1])), scan)
    assert read_mask(segments(tmp_path / "good.seg.nrrd"), read_scan(scan)).names == {1: "one"}
    refused(scan, segments(tmp_path / "a.seg.nrrd", **fields), match)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("dataset.json", "[]", "must give"),
        ("dataset.json", "[" * 100_000, "must give"),
        ("dataset.json", json.dumps({"labels": {"1": "a", "2": "a"}}), "name of its own"),
        ("dataset.json", " " * (2**20 + 1), "bytes at most"),
        ("mask.label", "# ITK-SnAP Label Description File\n1 2 3", "line 2 must be"),
        ("mask.txt", '# ITK-SnAP Label Description File\n1 256 0 0 1 1 1 "a"', "line 2 must name"),
        ("mask.label", "# ITK-SnAP Label Description File\n" + "1 " * 400_000, "line 2 must be"),
    ],
)
def test_descriptions_beside(scan, tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    started = time.perf_counter()
    with pytest.raises(InputError, match=match) as raised:
        read_reference(*scan)
    assert name in str(raised.value)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><CaretExtension/>', "plain table"),
        ("<CaretExtension><Label", "damaged"),
        ('<CaretExtension><Label Key="one" Red="1" Green="0" Blue="0">a</Label></CaretExtension>', "damaged"),
        ('<CaretExtension><Label Key="1" Red="nan" Green="0" Blue="0">a</Label></CaretExtension>', "damaged"),
        ("<CaretExtension>" + "a" * 2**20 + "</CaretExtension>", "plain table"),
    ],
)
def test_tables_in_a_nifti(scan, tmp_path, table, match):
    mask = nibabel.load(scan[1])
    mask.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    nibabel.save(mask, tmp_path / "named.nii.gz")
    refused(scan[0], tmp_path / "named.nii.gz", match)


@pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
def test_results_that_cannot_be_written_leave_nothing(series, scan, tmp_path, format):
    output = tmp_path / "out" / "a.dcm"
    for labels, like, match in (
        (np.zeros(SHAPE, np.int32), series, "no structure was found"),
        (np.ones(SHAPE[::-1], np.int32), series, "must lie on its grid"),
        (np.ones(SHAPE, np.int32), scan[0], "folder of DICOM files"),
        (np.ones(SHAPE, np.int32), write_series(tmp_path / "poor", FrameOfReferenceUID=None), "FrameOfReferenceUID"),
    ):
        with pytest.raises(InputError, match=match):
            WRITERS[format](labels, like, STRUCTURES, output)
    assert not output.parent.exists()


@pytest.mark.parametrize("name", ["", " \t", "liver\nspleen", "a\x00b", "\x1b[31mred", "\ud800"])
def test_names_that_are_no_line_of_text(scan, tmp_path, name):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, name: 1}}))
    with pytest.raises(InputError, match=r"dataset\.json: .*(one line|name of its own)"):
        read_reference(*scan)


@pytest.mark.parametrize("name", ["🫀 сердце", "=1+1", "<b>", "a/b", "..", "\u202eevil"])
def test_names_that_are_odd_but_text_are_kept(scan, tmp_path, name):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, name: 1}}))
    assert [c.name for c in read_reference(*scan).classes] == [name]


def test_a_segments_field_that_is_no_utf_8_is_none(tmp_path):
    path = segments(tmp_path / "a.seg.nrrd")
    path.write_bytes(path.read_bytes().replace(b"Segment0_ID", b"Segment0_I\xff"))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.diag([-1.0, -1, 1, 1])), tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", path, "must name its segments")


@pytest.mark.filterwarnings("ignore:The value length")
def test_messages_are_short_whatever_they_quote(series, tmp_path):
    path = broken(series, tmp_path, "rtstruct", lambda d: setattr(d, "SOPClassUID", "1." * 30_000))
    with pytest.raises(InputError, match="must be a segmentation") as raised:
        format_of(path)
    assert len(str(raised.value)) < 500 + len(str(path))
    (tmp_path / "dataset.json").write_bytes(b'{"labels": "' + b"\xff" * 100_000)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), read_scan(series).affine), tmp_path / "mask.nii")
    with pytest.raises(InputError, match=r"dataset\.json") as raised:
        read_reference(series, tmp_path / "mask.nii")
    assert len(str(raised.value)) < 3000
