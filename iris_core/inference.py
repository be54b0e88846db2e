"""A query and a TaskEmbedding → labels on the query's own grid. Decoding exists here, once."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.geometry import (
    Orientation,
    WorkingGrid,
    apply_matrices,
    labels_back,
    oriented,
    window_shape,
    window_starts,
)
from iris_core.intensity import normalise
from iris_core.model.iris import Iris, precision

MAX_LOGIT_BYTES = 8 * 2**30


@torch.inference_mode()
def segment(
    model: Iris, embedding: TaskEmbedding, query: Case, progress: Callable[[int, int], None] = lambda done, of: None
) -> np.ndarray:
    """Labels (x, y, z) int32 in the query's own axis order and grid.

    Windows with 50 % overlap, blended by a Gaussian (paper: averaged). Logits are summed at the model's output
    stride on the working grid and brought to the query's grid slab by slab. progress: called with windows done, all.
    """
    device = next(model.parameters()).device
    image, spacing_mm = oriented(query, normalise(query.image, embedding.scheme))
    grid = WorkingGrid(image.shape, spacing_mm, embedding.spacing_mm)
    logits = window_logits(model, embedding, torch.from_numpy(np.ascontiguousarray(image)), grid, device, progress)
    labels = labels_back(grid, logits, embedding.values, model.config.stem_stride, embedding.overlapping)
    return np.ascontiguousarray(Orientation.of(query.affine).invert(labels))


def window_logits(
    model: Iris, embedding: TaskEmbedding, image: Tensor, grid: WorkingGrid, device: torch.device, progress
) -> Tensor:
    """Blended logits (K, *samples) over the working grid; one sample covers stem_stride voxels along each axis."""
    stride = model.config.stem_stride
    shape = window_shape(grid.working_shape, model.config.window, model.config.multiple)
    per_axis = [window_starts(n, s, multiple=stride) for n, s in zip(grid.working_shape, shape, strict=True)]
    starts = list(itertools.product(*per_axis))
    samples = tuple(-(-n // stride) for n in grid.working_shape)
    if (need := 4 * len(embedding.values) * math.prod(samples)) > MAX_LOGIT_BYTES:
        raise InputError(
            f"{len(embedding.values)} classes over a field of view of {grid.working_shape} voxels of"
            f" {grid.working_mm:.2f} mm need {need / 2**30:.1f} GiB, the limit is {MAX_LOGIT_BYTES / 2**30:.0f};"
            " crop the query or show fewer classes"
        )
    total = torch.zeros(len(embedding.values), *samples)
    weight = torch.zeros(samples)
    importance = _gaussian(tuple(n // stride for n in shape))
    task = embedding.task.map(lambda t: t.to(device))
    for done, start in enumerate(starts):
        progress(done, len(starts))
        cut = apply_matrices(image, grid.window_matrices(start, shape))[None, None].to(device)
        with precision(device):
            box = grid.box(start, shape)[None].to(device)
            logits = model.decode(model.encode_image(cut), task, box)[0].float().cpu()
        where, part = [], []
        for first, n, limit in zip(start, importance.shape, samples, strict=True):
            low = first // stride
            where.append(slice(max(low, 0), min(low + n, limit)))
            part.append(slice(max(-low, 0), min(low + n, limit) - low))
        total[(slice(None), *where)] += (logits * importance)[(slice(None), *part)]
        weight[tuple(where)] += importance[tuple(part)]
    progress(len(starts), len(starts))
    return total.div_(weight)


def _gaussian(shape: tuple[int, ...]) -> Tensor:
    """Importance of a window's samples: σ = 1/8 of the edge, as in nnU-Net, never below a thousandth."""
    lines = [torch.exp(-0.5 * ((torch.arange(n) + 0.5 - n / 2) / (n / 8)) ** 2) for n in shape]
    return (lines[0][:, None, None] * lines[1][:, None] * lines[2]).clamp_min(1e-3)
