"""Slicer's arrays ↔ cases: Slicer has them as (k, j, i), which is (z, y, x), cases as (x, y, z)."""

from __future__ import annotations

import numpy as np

from iris_client import Case, InputError, LabelClass

Segment = tuple[str, np.ndarray]  # name, mask (k, j, i)


def query_case(voxels: np.ndarray, ijk_to_ras: np.ndarray, name: str) -> Case:
    """voxels: (k, j, i). ijk_to_ras: 4×4, in mm, as Slicer has it."""
    return Case(voxels.transpose(), ijk_to_ras, name=name)


def reference_case(voxels: np.ndarray, ijk_to_ras: np.ndarray, name: str, segments: list[Segment]) -> Case:
    """With segments as the classes 1, 2, … Raises InputError where two overlap or have one name, or all are empty."""
    names = [segment for segment, _ in segments]
    if len(set(names)) != len(names):
        raise InputError(f"{name}: every segment must have a name of its own, got {names}")
    labels = np.zeros(voxels.shape, np.int32)
    for value, (segment, mask) in enumerate(segments, 1):
        if shared := int((labels[mask > 0] > 0).sum()):
            raise InputError(f"{segment}: segments must not overlap, it shares {shared} voxels with those before it")
        labels[mask > 0] = value
    if not labels.any():
        raise InputError(f"{name}: no voxel is in a segment, of {len(segments)}; draw the structure first")
    classes = tuple(LabelClass(segment, value) for value, segment in enumerate(names, 1))
    return Case(voxels.transpose(), ijk_to_ras, labels.transpose(), classes, name)


def found_segments(labels: np.ndarray, classes: tuple[LabelClass, ...]) -> list[Segment]:
    """Labels (x, y, z) as segments, of which some may be empty."""
    return [(c.name, (labels == c.value).astype(np.uint8).transpose()) for c in classes]
