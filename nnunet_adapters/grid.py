"""Does a mask lie on its scan's grid? And how it is brought there: exactly, or resampled where that was asked for."""

import itertools

import numpy as np

from iris_core.case import InputError
from nnunet_adapters.voxels import itk_image

TOLERANCE = 0.01  # of a voxel


def check_same_grid(mask_path, mask_shape, mask_affine, path, shape, affine) -> None:
    """Raise InputError unless a mask lies on its image's grid (affines equal to a hundredth of a voxel)."""
    if tuple(mask_shape) != tuple(shape):
        raise InputError(
            f"{mask_path}: a mask must lie on its image's grid; {path} has {tuple(shape)} voxels, it has"
            f" {tuple(mask_shape)}; resample it (iris segment --resample-mask does)"
        )
    tolerance = TOLERANCE * np.linalg.norm(affine[:3, :3], axis=0).min()
    if np.abs((mask_affine - affine) @ _corners(shape)).max() > max(tolerance, 1e-3):
        raise InputError(
            f"{mask_path}: a mask must lie on its image's grid; its affine\n{mask_affine}\n"
            f"is not that of {path}\n{affine}; if both show the same patient there, resample it"
            " (iris segment --resample-mask does)"
        )


def on_lattice(labels: np.ndarray, affine: np.ndarray, shape, to_affine: np.ndarray) -> np.ndarray | None:
    """Labels (x, y, z) on a scan's grid whose voxels theirs are: a part of it, or with axes turned. Exact.

    Formats of segments store only the part of a scan in which there are any. None where a voxel lies between the
    scan's, or where one that is marked lies outside it.
    """
    index = np.linalg.solve(to_affine, affine)  # mask voxel → scan voxel
    exact = index.round()
    turn = exact[:3, :3].astype(int)
    one_each = (np.abs(turn).sum(0) == 1).all() and (np.abs(turn).sum(1) == 1).all()
    if not one_each or np.abs((index - exact) @ _corners(labels.shape)).max() > TOLERANCE:
        return None
    axes = np.abs(turn).argmax(1)
    backwards = turn[range(3), axes] < 0
    turned = np.flip(labels.transpose(axes), np.flatnonzero(backwards))
    first = exact[:3, 3].astype(np.int64) - backwards * (np.array(turned.shape) - 1)
    low = np.clip(first, 0, shape)
    high = np.clip(first + turned.shape, 0, shape)
    there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    placed = np.zeros(shape, labels.dtype)
    if (high > low).all():
        placed[there] = turned[here]
    return placed if np.count_nonzero(placed) == np.count_nonzero(labels) else None


def resampled(labels: np.ndarray, affine: np.ndarray, shape, to_affine: np.ndarray) -> np.ndarray:
    """Labels (x, y, z) on a scan's grid: the label whose share, interpolated linearly, is largest. 0 outside."""
    import SimpleITK as sitk

    like = itk_image(np.broadcast_to(np.uint8(0), shape), to_affine)
    mask = itk_image(labels.astype(np.int32), affine)
    moved = sitk.Resample(mask, like, sitk.Transform(), sitk.sitkLabelLinear, 0)
    return sitk.GetArrayFromImage(moved).transpose(2, 1, 0)


def _corners(shape) -> np.ndarray:
    """(4, 8) corners of a grid in voxels."""
    return np.array([[*corner, 1] for corner in itertools.product(*((0, n) for n in shape))]).T
