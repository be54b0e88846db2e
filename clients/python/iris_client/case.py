"""Scans in memory, with the fields that Iris' own `iris_core.case.Case` has, which the client takes as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from iris_client.errors import InputError


@dataclass(frozen=True)
class LabelClass:
    """One structure of a label map: the voxels with its value."""

    name: str
    value: int


@dataclass(frozen=True)
class Case:
    """One volume on its own grid, with or without labels.

    image: (x, y, z). affine: 4×4, voxel index to RAS+ millimetres. labels: (x, y, z) whole numbers on the image's grid,
    0 is background; or None. classes: the structures of the labels. name: how messages call this case.
    """

    image: np.ndarray
    affine: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[LabelClass, ...] = ()
    name: str = "case"


def plain_classes(labels: np.ndarray, names: dict[int, str] | None = None) -> tuple[LabelClass, ...]:
    """One class a value that occurs in labels, in rising order, background 0 left out; without a name "class 2"."""
    values = [int(value) for value in np.unique(labels) if value != 0]
    return tuple(LabelClass((names or {}).get(value, f"class {value}"), value) for value in values)


def read_scan(path: Path | str) -> Case:
    """Read a NIfTI without labels. Raises InputError naming the file."""
    image, affine = _read(path)
    return Case(image.astype(np.float32), affine, name=str(path))


def read_reference(path: Path | str, mask_path: Path | str, names: dict[int, str] | None = None) -> Case:
    """Read a NIfTI with its mask, a NIfTI on the same grid. names: value → name."""
    scan = read_scan(path)
    labels, affine = _read(mask_path)
    if labels.shape != scan.image.shape or not np.allclose(affine, scan.affine, atol=1e-3):
        raise InputError(
            f"{mask_path}: a mask must lie on its scan's grid, {scan.image.shape} with the affine\n{scan.affine},"
            f" got {labels.shape} with\n{affine}"
        )
    return Case(scan.image, scan.affine, labels, plain_classes(labels, names), str(path))


def _read(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) in file order and the RAS+ affine."""
    try:
        nifti = nibabel.load(path)
        voxels = np.asanyarray(nifti.dataobj)
    except Exception as error:  # nibabel and its decompressors each raise their own
        raise InputError(f"{path}: must be a NIfTI that can be read ({error})") from error
    if voxels.dtype.kind not in "biuf":
        raise InputError(f"{path}: voxels must be plain numbers, got {voxels.dtype}")
    return voxels, nifti.affine
