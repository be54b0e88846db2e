"""DICOM-SEG: what is read back lies, in the patient, where the labels lie."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import AXIAL, SHAPE, rotated, write_series

from iris_core.case import InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.model.task_encoder import Task
from iris_core.strategies import QueryTask
from nnunet_adapters.folder import segment_queries
from nnunet_adapters.images import read_scan
from nnunet_adapters.masks.dicom_seg import write
from nnunet_adapters.masks.mask import Structure


@dataclass
class Found:
    """A prediction that is certain."""

    voxels: np.ndarray

    def labels(self, threshold: float) -> np.ndarray:
        return self.voxels


def structures(values, names) -> list[Structure]:
    return [Structure(value, name, (200, 30, 0)) for value, name in zip(values, names, strict=True)]


def some_labels() -> np.ndarray:
    """Values 1 and 4 in scattered voxels; one slice is empty; 2 does not occur."""
    labels = np.random.default_rng(1).choice([0, 1, 4], SHAPE, p=[0.7, 0.2, 0.1]).astype(np.int32)
    labels[:, :, 3] = 0
    return labels


def read_back(path: Path, affine: np.ndarray) -> dict[str, set[tuple[int, ...]]]:
    """Segment → the voxels of the scan that it marks, by way of the positions that its frames state."""
    import highdicom as hd

    seg = hd.seg.segread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    rows, columns = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    marked: dict[str, set] = {seg.get_segment_description(n).segment_label: set() for n in seg.segment_numbers}
    frames = np.atleast_3d(seg.pixel_array.T).T
    for frame, about in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        which = about if "SegmentIdentificationSequence" in about else shared
        number = which.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(frame)
        lps = corner + np.outer(column * between_columns, rows) + np.outer(row * between_rows, columns)
        ras = np.c_[lps * [-1, -1, 1], np.ones(len(lps))]
        index = (np.linalg.inv(affine) @ ras.T)[:3].T
        assert np.abs(index - index.round()).max() < 1e-3
        marked[seg.get_segment_description(number).segment_label] |= set(map(tuple, index.round().astype(int).tolist()))
    return marked


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, (1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), rotated()],
    ids=["axial", "down", "sagittal", "oblique"],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_voxel_comes_back_where_it_was(tmp_path, orientation, backwards):
    series = write_series(tmp_path / "series", orientation, backwards=backwards)
    labels, case = some_labels(), read_scan(series)
    write(labels, series, structures((1, 2, 4), ("Leber", "Milz", "Gefäß")), tmp_path / "out" / "series.seg.dcm")
    marked = read_back(tmp_path / "out" / "series.seg.dcm", case.affine)
    assert marked == {
        name: set(map(tuple, np.argwhere(labels == value).tolist())) for name, value in (("Leber", 1), ("Gefäß", 4))
    }


def test_it_says_whose_and_what_it_is(tmp_path):
    import highdicom as hd

    series = write_series(tmp_path / "series", SeriesNumber=3)
    write(some_labels(), series, structures((1,), ("a\\b" * 40,)), tmp_path / "a.seg.dcm")
    seg = hd.seg.segread(tmp_path / "a.seg.dcm")
    about = seg.get_segment_description(1)
    assert (seg.PatientID, seg.Modality, seg.SeriesNumber) == ("7", "SEG", 1003)
    assert seg.Manufacturer == "Iris (research only)"
    assert about.segment_label == ("a/b" * 40)[:64]
    assert about.segmented_property_category.meaning == "Tissue"
    assert about.segmented_property_type.value == "91723000"  # SNOMED CT's anatomical structure
    assert about.algorithm_type.value == "AUTOMATIC"
    assert about.algorithm_identification.name == "Iris"


def test_nothing_found_another_grid_and_poor_headers_are_told(tmp_path):
    series, output = write_series(tmp_path / "series"), tmp_path / "a.seg.dcm"
    with pytest.raises(InputError, match="no structure was found"):
        write(np.zeros(SHAPE, np.int32), series, structures((1,), ("a",)), output)
    with pytest.raises(InputError, match="must lie on its grid"):
        write(np.ones(SHAPE[::-1], np.int32), series, structures((1,), ("a",)), output)
    poor = write_series(tmp_path / "poor", FrameOfReferenceUID=None)
    with pytest.raises(InputError, match="none of FrameOfReferenceUID"):
        write(np.ones(SHAPE, np.int32), poor, structures((1,), ("a",)), output)
    vague = write_series(tmp_path / "vague", PatientSex="W")
    with pytest.raises(InputError, match="no DICOM-SEG can be made"):
        write(np.ones(SHAPE, np.int32), vague, structures((1,), ("a",)), output)
    assert not output.exists()


def test_iris_segment_leaves_one_beside_the_mask_of_a_folder(tmp_path, capsys):
    vectors = Task.compact(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 0, 2, 1), torch.zeros(1, 1, 0))
    task = TaskEmbedding(vectors, values=(4,), names=("lung",), spacing_mm=1.0, scheme="ct")
    found, empty = write_series(tmp_path / "found"), write_series(tmp_path / "empty", PixelData=bytes(126))
    kept = [found, empty], (), tmp_path / "out", False, {}
    for _ in range(2):  # the second run writes over the first
        code = segment_queries(
            lambda embedding, case: Found(np.where(case.image < -100, 4, 0).astype(np.int32)),
            lambda case: QueryTask(task),
            lambda *_: {},
            *kept,
        )
        assert code == 0
        assert {p.name for p in (tmp_path / "out").iterdir()} == {
            "run.json", "found.nii.gz", "found.seg.dcm", "empty.nii.gz"
        }  # fmt: skip
    assert "no empty.seg.dcm" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["results"]
    assert results["found.nii.gz"]["dicom_seg"] == "found.seg.dcm"
    assert results["empty.nii.gz"]["dicom_seg"] is None
    case = read_scan(found)
    marked = read_back(tmp_path / "out" / "found.seg.dcm", case.affine)
    assert marked == {"lung": set(map(tuple, np.argwhere(case.image < -100).tolist()))}


def test_old_files_without_the_preamble_are_read_as_the_scan_was(tmp_path):
    from pydicom import dcmread, dcmwrite
    from pydicom.dataset import Dataset

    series = write_series(tmp_path / "series")
    for file in series.iterdir():
        bare = Dataset()
        bare.update(dcmread(file))
        dcmwrite(file, bare, implicit_vr=True, little_endian=True)
    write(some_labels(), series, structures((1,), ("Leber",)), tmp_path / "old.seg.dcm")
    affine = read_scan(series).affine
    assert read_back(tmp_path / "old.seg.dcm", affine)["Leber"] == set(
        map(tuple, np.argwhere(some_labels() == 1).tolist())
    )
