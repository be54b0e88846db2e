"""A labelled scan through each format: the same voxels, names and colours; and what other libraries read there."""

import json
from copy import deepcopy
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from conftest import ball, write_nifti
from dicom_files import AXIAL, rotated, write_series
from pydicom import dcmread

from iris_core.case import InputError
from nnunet_adapters.grid import on_lattice, resampled
from nnunet_adapters.images import read_reference, read_scan
from nnunet_adapters.masks import ENDINGS, WRITERS, read_mask
from nnunet_adapters.masks.mask import Structure
from nnunet_adapters.masks.snomed import meaning_of

STRUCTURES = [Structure(1, "Leber & Gefäß", (230, 159, 0)), Structure(4, "kidney_left", (12, 180, 233))]
SHAPE = (24, 20, 11)


def labels_with_a_hole() -> np.ndarray:
    """1: a ball with a hollow, in which lies 4; and single voxels of 4 at a corner and at an edge."""
    labels = np.zeros(SHAPE, np.int32)
    labels[ball(SHAPE, (11, 9, 5), 7.3, (1, 1, 1.5))] = 1
    labels[ball(SHAPE, (12, 9, 5), 4.1, (1, 1, 1.5))] = 0
    labels[ball(SHAPE, (12, 9, 5), 2.2, (1, 1, 1.5))] = 4
    labels[0, 0, 2] = labels[23, 10, 3] = labels[20, 2, 4] = labels[21, 3, 4] = 4
    return labels


@pytest.fixture(
    params=[AXIAL, (1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), rotated()], ids=["axial", "down", "sag", "oblique"]
)
def series(tmp_path, request):
    volume = np.random.default_rng(0).integers(-1000, 1000, SHAPE, np.int16)
    return write_series(tmp_path / "series", request.param, volume=volume)


@pytest.mark.parametrize("format", WRITERS)
def test_voxels_names_and_colours_come_back(series, tmp_path, format):
    labels = labels_with_a_hole()
    path = tmp_path / f"mask{ENDINGS[format]}"
    WRITERS[format](labels, series, STRUCTURES, path)
    case = read_reference(series, path)
    assert {c.name for c in case.classes} == {s.name for s in STRUCTURES}
    for structure in STRUCTURES:
        (there,) = (c for c in case.classes if c.name == structure.name)
        assert (there.mask(case.labels) == (labels == structure.value)).all()
        assert np.abs(np.subtract(case.colours[structure.name], structure.colour)).max() <= 1
    if format != "dicom-seg":  # whose segments are numbered from 1
        assert (case.labels == labels).all()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_nifti_is_as_totalsegmentator_has_it(tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", np.zeros(SHAPE, np.float32), np.diag([-1.0, 1, 2, 1]))
    WRITERS["nii.gz"](labels_with_a_hole(), scan, STRUCTURES, tmp_path / "mask.nii.gz")
    (extension,) = nibabel.load(tmp_path / "mask.nii.gz").header.extensions
    content = extension.get_content()
    text = (content if isinstance(content, bytes) else content.encode()).decode()
    assert extension.get_code() == 0
    assert text.startswith("<?xml") and '<Label Key="4" Red="0.047' in text
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))).max() == 4
    WRITERS["nii.gz"](labels_with_a_hole(), tmp_path / "mask.nii.gz", STRUCTURES[:1], tmp_path / "again.nii.gz")
    assert read_mask(tmp_path / "again.nii.gz", read_scan(scan)).names == {1: "Leber & Gefäß"}


def test_slicer_reads_segments(series, tmp_path):
    WRITERS["seg.nrrd"](labels_with_a_hole(), series, STRUCTURES, tmp_path / "a.seg.nrrd")
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    assert [(s["name"], s["labelValue"], s["layer"]) for s in read["segments"]] == [
        (s.name.encode("ascii", "ignore").decode(), s.value, 0)
        for s in STRUCTURES  # slicerio leaves the rest out
    ]
    np.testing.assert_allclose(read["segments"][0]["color"], np.divide(STRUCTURES[0].colour, 255), atol=1e-3)
    assert (read["voxels"] == labels_with_a_hole()).all()
    ras = np.diag([-1, -1, 1, 1]) @ read["ijkToLPS"]
    np.testing.assert_allclose(ras, read_scan(series).affine, atol=1e-5)


def write_slicer(path, layers, affine, segments):
    """As Slicer writes: layers (layer, x, y, z). segments: name, layer, value."""
    segmentation = {
        "voxels": layers[0] if len(layers) == 1 else np.stack(layers),
        "ijkToLPS": np.diag([-1, -1, 1, 1]) @ affine,
        "encoding": "gzip",
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": [
            {"id": f"S{i}", "name": name, "layer": layer, "labelValue": value, "color": [1, 0, 0]}
            for i, (name, layer, value) in enumerate(segments)
        ],
    }
    slicerio.write_segmentation(str(path), segmentation)


def test_slicers_layers_and_crops_are_read_and_overlaps_refused(scan, tmp_path):
    case = read_scan(scan[0])
    first, second = np.zeros((2, *case.image.shape), np.uint8)
    first[4:8, 5:9, 6:9], second[9:12, 5:9, 6:9] = 1, 3
    there = tmp_path / "a.seg.nrrd"
    write_slicer(there, [first, second], case.affine, [("one", 0, 1), ("two", 1, 3)])
    mask = read_mask(there, case)
    assert mask.names == {1: "one", 2: "two"}
    assert (mask.labels == (first > 0) + 2 * (second > 0)).all()
    second[7, 6, 7] = 3
    write_slicer(there, [first, second], case.affine, [("one", 0, 1), ("two", 1, 3)])
    with pytest.raises(InputError, match=r"'one' and 'two' share 1 voxels"):
        read_mask(there, case)
    part = case.affine.copy()
    part[:3, 3] += part[:3, :3] @ (3, 4, 5)
    write_slicer(there, [first[3:9, 4:10, 5:10]], part, [("one", 0, 1)])
    assert (read_mask(there, case).labels == first).all()


def test_a_dicom_seg_has_codes_and_colours(series, tmp_path):
    import highdicom as hd

    names = ("kidney_left", "Liver", "my thing")
    structures = [Structure(i, name, (10, 20, 30)) for i, name in enumerate(names, 1)]
    labels = np.zeros(SHAPE, np.int32)
    labels[:2, :2, 0], labels[2:4, :2, 0], labels[4:6, :2, 0] = 1, 2, 3
    WRITERS["dicom-seg"](labels, series, structures, tmp_path / "a.dcm")
    seg = hd.seg.segread(tmp_path / "a.dcm")
    types = [seg.get_segment_description(n).segmented_property_type for n in (1, 2, 3)]
    assert [t.value for t in types] == ["64033007", "10200004", "91723000"]
    side = dcmread(tmp_path / "a.dcm").SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert side.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [("left kidney", "64033007", "Left"), ("R_Femur", "71341001", "Right"), ("heart_ventricle_left", "87878005", None),
     ("vertebrae_L1", "66794005", None), ("rib_left_1", "48535007", "Left"), ("thing", "91723000", None)],
)  # fmt: skip
def test_names_mean_something(name, code, side):
    meaning = meaning_of(name)
    assert (meaning.type[0], meaning.side and meaning.side[1]) == (code, side)


def test_pydicom_reads_the_contours_of_known_areas(tmp_path):
    series = write_series(tmp_path / "series", volume=np.zeros((60, 50, 4), np.int16), spacing_mm=(1, 1, 2))
    labels = np.zeros((60, 50, 4), np.int32)
    labels[10:30, 5:45, 1:3] = 7
    WRITERS["rtstruct"](labels, series, [Structure(7, "box", (1, 2, 3))], tmp_path / "a.dcm")
    dataset = dcmread(tmp_path / "a.dcm")
    (roi,), (drawn,) = dataset.StructureSetROISequence, dataset.ROIContourSequence
    assert (roi.ROINumber, roi.ROIName, list(drawn.ROIDisplayColor)) == (7, "box", [1, 2, 3])
    scans = {str(dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in series.iterdir()}
    for contour in drawn.ContourSequence:
        x, y, _ = np.array(contour.ContourData, float).reshape(-1, 3).T
        area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        assert area == pytest.approx(800, rel=2e-3)  # its corners are cut
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in scans
    assert len(drawn.ContourSequence) == 2


def test_drawn_circles_have_their_volume(tmp_path):
    """Contours that no voxels made: circles of 20.3 mm with a hole of 8.1 mm, in 5 slices of 2 mm."""
    series = write_series(tmp_path / "series", volume=np.zeros((60, 60, 5), np.int16), spacing_mm=(1, 1, 2))
    WRITERS["rtstruct"](np.ones((60, 60, 5), np.int32), series, [Structure(1, "a", (1, 2, 3))], tmp_path / "a.dcm")
    dataset = dcmread(tmp_path / "a.dcm")
    contours, turns = dataset.ROIContourSequence[0].ContourSequence, np.linspace(0, 2 * np.pi, 200, endpoint=False)
    drawn = []
    for contour in contours:
        z = contour.ContourData[2]
        for radius in (20.3, 8.1):
            circle = deepcopy(contour)
            points = np.c_[radius * np.cos(turns) + 9.7, radius * np.sin(turns) + 60.2, np.full(200, z)]
            circle.ContourData = [f"{v:.3f}" for v in points.ravel()]
            drawn.append(circle)
    dataset.ROIContourSequence[0].ContourSequence = drawn
    dataset.save_as(tmp_path / "a.dcm")
    marked = read_reference(series, tmp_path / "a.dcm").labels.sum() * 2 / 1000
    assert marked == pytest.approx(np.pi * (20.3**2 - 8.1**2) * 10 / 1000, rel=0.01)


def test_names_lie_beside_a_label_map(scan, tmp_path):
    case = read_scan(scan[0])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "both": [1, 2]}}))
    assert read_mask(scan[1], case).names == {1: "liver"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "spleen"}}))
    assert read_mask(scan[1], case).names == {1: "spleen"}
    (tmp_path / "mask.txt").write_text("no description")
    assert read_mask(scan[1], case).names == {1: "spleen"}
    (tmp_path / "mask.txt").write_text(
        "####\n# ITK-SnAP Label Description File\n####\n"
        '    0     0    0    0        0  0  0    "Clear Label"\n    1   255   10    0        1  1  1    "the ball"\n'
    )
    mask = read_mask(scan[1], case)
    assert (mask.names, mask.colours) == ({1: "the ball"}, {1: (255, 10, 0)})
    read = read_reference(*scan, {1: "mine"})
    assert [c.name for c in read.classes] == ["mine"]


def test_a_mask_of_another_grid_is_resampled_only_when_asked(scan, tmp_path):
    case = read_scan(scan[0])
    finer = ball((48, 40, 44), (22, 18, 20), 12.0).astype(np.uint8) * 5
    mask = write_nifti(tmp_path / "finer.nii.gz", finer, case.affine @ np.diag([0.5, 0.5, 0.5, 1]))
    with pytest.raises(InputError, match="--resample-mask"):
        read_reference(scan[0], mask)
    labels = read_reference(scan[0], mask, resample=True).labels
    assert set(np.unique(labels)) == {0, 5}
    assert 2 * ((labels > 0) & ball()).sum() / ((labels > 0).sum() + ball().sum()) > 0.98
    far = write_nifti(tmp_path / "far.nii.gz", finer, np.diag([1, 1, 1, 1]) + np.eye(4, k=3) * 1000)
    with pytest.raises(InputError, match="nothing that it marks"):
        read_reference(scan[0], far, resample=True)


def test_a_part_of_a_lattice_is_placed_exactly_or_not_at_all():
    labels, affine = labels_with_a_hole(), np.array([[0, -2.0, 0, 10], [0, 0, 3, 20], [4, 0, 0, 30], [0, 0, 0, 1]])
    turn = np.array([[0, 0, -1, 23], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = labels.transpose(1, 2, 0)[..., ::-1]
    assert (on_lattice(turned, affine @ turn, SHAPE, affine) == labels).all()
    moved = affine.copy()
    moved[0, 3] += 0.3
    assert on_lattice(labels, moved, SHAPE, affine) is None
    moved[:3, 3] = affine[:3, 3] + affine[:3, 0] * 5  # what is marked lies outside
    assert on_lattice(labels, moved, SHAPE, affine) is None
    assert (resampled(labels, affine, SHAPE, affine) == labels).all()


def test_a_mask_of_another_frame_of_reference_is_refused(tmp_path):
    series, other = write_series(tmp_path / "one"), write_series(tmp_path / "two")
    for format in ("dicom-seg", "rtstruct"):
        path = tmp_path / "a.dcm"
        WRITERS[format](np.ones(read_scan(series).image.shape, np.int32), series, [replace(STRUCTURES[0])], path)
        with pytest.raises(InputError, match="frame of reference"):
            read_reference(other, path)
