"""What 3D Slicer's module does with voxels, without Slicer."""

import ast
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

import iris_slicer
from app.service import Service
from iris_client import Client, InputError, LabelClass
from iris_core.case import plain_classes
from iris_slicer.voxels import found_segments, query_case, reference_case
from nnunet_adapters import images


def test_segments_show_the_same_in_another_volume(served, sample):
    def slicer_has(name: str) -> tuple[np.ndarray, np.ndarray, str]:
        nifti = nibabel.load(sample / f"{name}.nii.gz")
        return np.asarray(nifti.dataobj).transpose(), nifti.affine, name

    labels = slicer_has("reference_mask")[0]
    shown = [("tail", (labels == 2).astype(np.uint8)), ("head", (labels == 1).astype(np.uint8))]
    reference = reference_case(*slicer_has("reference"), shown)
    with Client(served.address, served.token) as client:
        labels = client.segment(client.encode(reference), query_case(*slicer_has("query")))
    found = dict(found_segments(labels, reference.classes))
    service = Service("iris-small", "cpu")
    local = images.read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz")
    classes = plain_classes(np.array([1, 2]), {1: "tail", 2: "head"})  # another order rounds otherwise
    local = replace(local, labels=np.array([0, 2, 1], np.int32)[local.labels], classes=classes)
    expected = service.segment(service.encode(local), images.read_scan(sample / "query.nii.gz")).transpose()
    assert found["tail"].any() and np.array_equal(found["tail"], expected == 1)
    assert found["head"].any() and np.array_equal(found["head"], expected == 2)


def test_segments_that_cannot_be_shown_are_refused():
    voxels, empty, whole = np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    half = whole.copy()
    half[1] = 0
    for segments, said in (
        ([("liver", empty)], "mri: no voxel is in a segment, of 1"),
        ([("liver", whole), ("spleen", half)], "spleen: segments must not overlap, it shares 12 voxels"),
        ([("liver", half), ("liver", 1 - half)], "mri: every segment must have a name of its own"),
    ):
        with pytest.raises(InputError, match=said):
            reference_case(voxels, np.eye(4), "mri", segments)
    case = reference_case(voxels, np.eye(4), "mri", [("liver", half), ("spleen", empty)])
    assert case.image.shape == case.labels.shape == (4, 3, 2) and case.labels.sum() == 12
    assert case.classes == (LabelClass("liver", 1), LabelClass("spleen", 2))


def test_the_module_is_called_as_its_file_is():
    """Slicer finds IrisSegment and IrisSegmentWidget in IrisSegment.py by these names."""
    source = (Path(iris_slicer.__file__).parents[1] / "IrisSegment.py").read_text("utf-8")
    classes = {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    assert classes == {"IrisSegment", "IrisSegmentWidget"}
