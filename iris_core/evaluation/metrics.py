"""Metrics on whole volumes in the query's own grid. A class that neither mask has was not asked: None."""

import warnings

import numpy as np
import torch

from iris_core.geometry import extent

MARGIN = 2  # voxels around both masks: surfaces need a neighbour


def dice(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> float | None:
    """Dice of two boolean volumes, over the voxels where ``valid``. None where both are empty."""
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else None


def surface_dice(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    valid: np.ndarray | None = None,
) -> float | None:
    """Normalised surface distance (NSD, surface Dice): the share of both surfaces that lies within the tolerance.

    MONAI's implementation. None where both masks are empty, 0 where one is.
    """
    from monai.metrics.surface_dice import compute_surface_dice

    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    if not prediction.any() and not truth.any():
        return None
    if not prediction.any() or not truth.any():
        return 0.0
    first, last = extent(prediction | truth)
    box = tuple(slice(max(0, a - MARGIN), b + MARGIN) for a, b in zip(first, last, strict=True))
    both = [torch.from_numpy(np.ascontiguousarray(mask[box], np.float32))[None, None] for mask in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls a function of its own the old way
        value = compute_surface_dice(
            *both, [tolerance_mm], include_background=True, spacing=tuple(map(float, spacing_mm))
        )
    return float(value)


def mean_surface_distance(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]) -> float | None:
    """Mean distance in mm from each surface to the other, both ways. None where either mask is empty."""
    from monai.metrics.surface_distance import compute_average_surface_distance

    if not prediction.any() or not truth.any():
        return None
    first, last = extent(prediction | truth)
    box = tuple(slice(max(0, a - MARGIN), b + MARGIN) for a, b in zip(first, last, strict=True))
    both = [torch.from_numpy(np.ascontiguousarray(mask[box], np.float32))[None, None] for mask in (prediction, truth)]
    spacing = tuple(map(float, spacing_mm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        value = compute_average_surface_distance(*both, include_background=True, symmetric=True, spacing=spacing)
    return float(value)
