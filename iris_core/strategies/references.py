"""References → task embeddings: working spacing, intensity scheme, windows. What all strategies share."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import Overview, TaskEmbedding, combine, geometric_mean
from iris_core.geometry import (
    WorkingGrid,
    apply_matrices,
    choose_spacing,
    extent,
    oriented,
    window_shapes,
    window_starts,
)
from iris_core.intensity import detect_scheme, normalise
from iris_core.model.iris import Iris, precision
from iris_core.model.task_encoder import Task

PAPER_SPACING_MM = 1.5
OVERVIEWS = (2, 4)  # × the working spacing. Ours
GRIDS = ("auto", "paper")


def shared_scale(
    model: Iris, references: Sequence[Case], grid: str = "auto", scheme: str | None = None
) -> tuple[float, str]:
    """Working spacing in mm and intensity scheme for a task that several references show.

    grid: 'auto' takes the geometric mean of the spacings that suit each reference, 'paper' is 1.5 mm. scheme: None
    detects it from the values. Raises InputError where a reference shows nothing, or where they disagree on the scheme.
    """
    if grid not in GRIDS:
        raise InputError(f"grid must be one of {GRIDS}, got {grid!r}")
    spacings, schemes = [], {}
    for reference in references:
        classes = reference.present()
        if not classes:
            raise InputError(f"{reference.name}: the reference must show at least one class, its mask is empty")
        schemes[scheme or detect_scheme(reference.image)] = reference.name
        labels, spacing_mm = oriented(reference, reference.labels)
        if grid == "auto":
            masks = (c.mask(labels) for c in classes)
            spacings.append(choose_spacing(masks, spacing_mm, model.config.window))
    if len(schemes) > 1:
        raise InputError(f"references must share one intensity scheme, found {schemes}; set it")
    return (geometric_mean(spacings) if spacings else PAPER_SPACING_MM), next(iter(schemes))


@torch.inference_mode()
def encode(model: Iris, reference: Case, spacing_mm: float, scheme: str, overviews: bool) -> TaskEmbedding:
    """T of every class that a reference shows, at a working spacing; with ``overviews`` at coarser ones too.

    A mask larger than a window is encoded window by window (no overlap) and averaged by each class's volume in them.
    """
    classes = reference.present()
    image, voxel_mm = oriented(reference, normalise(reference.image, scheme))
    labels, _ = oriented(reference, reference.labels)
    volume = torch.from_numpy(np.ascontiguousarray(image))
    masks = [torch.from_numpy(c.mask(labels).astype(np.float32)) for c in classes]
    coarser = [spacing_mm * step for step in OVERVIEWS] if overviews else []
    return TaskEmbedding(
        task=_encode(model, volume, masks, voxel_mm, spacing_mm),
        values=tuple(c.value for c in classes),
        names=tuple(c.name for c in classes),
        spacing_mm=spacing_mm,
        scheme=scheme,
        overlapping=any(len(c.members) > 1 for c in classes),
        overviews=tuple(Overview(_encode(model, volume, masks, voxel_mm, mm), mm) for mm in coarser),
    )


def _encode(model: Iris, image: Tensor, masks: list[Tensor], spacing_mm: tuple[float, ...], working_mm: float) -> Task:
    """T of K classes at one working spacing: from one window, or the mean of several."""
    grid = WorkingGrid(tuple(image.shape), spacing_mm, working_mm)
    shown = torch.stack(masks).any(0).numpy()
    size = (np.diff(extent(shown), axis=0)[0] * spacing_mm / working_mm).clip(max=grid.working_shape)
    window, multiple = model.config.window, model.config.multiple
    lengths = [n if across <= window else math.ceil(across) for n, across in zip(grid.working_shape, size, strict=True)]
    shape = window_shapes(grid.working_shape, lengths, window, multiple)
    device = next(model.parameters()).device
    tasks, weights = [], []
    for start in _windows(shown, grid, shape):
        matrices = grid.window_matrices(start, shape)
        cut = torch.stack([apply_matrices(volume, matrices) for volume in (image, *masks)])[None].to(device)
        inside = cut[:, 1:]
        if not inside.any():
            continue
        with precision(device):
            box = grid.box(start, shape)[None].to(device)
            tasks.append(model.encode_task(model.encode_image(cut[:, :1]), inside, box))
        weights.append(inside[0].sum((1, 2, 3)))
    return combine(tasks, torch.stack(weights)).map(lambda t: t.half().float())  # as a task file keeps it


def _windows(mask: np.ndarray, grid: WorkingGrid, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Starts of the windows that cover the mask's extent: one around it if it fits, else side by side."""
    first, last = extent(mask)
    per_axis = []
    for axis in range(3):
        scale = grid.spacing_mm[axis] / grid.working_mm
        low, high = int(np.floor(first[axis] * scale)), int(np.ceil(last[axis] * scale))
        slack = grid.working_shape[axis] - shape[axis]
        if high - low <= shape[axis]:
            centred = (low + high - shape[axis]) // 2
            per_axis.append([slack // 2 if slack <= 0 else min(max(centred, 0), slack)])
        else:
            per_axis.append([low + s for s in window_starts(high - low, shape[axis], overlap=0.0)])
    return [(x, y, z) for x in per_axis[0] for y in per_axis[1] for z in per_axis[2]]
