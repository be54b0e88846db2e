"""A query and a TaskEmbedding → labels on the query's own grid. Decoding exists here, once."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import Overview, TaskEmbedding
from iris_core.geometry import (
    Orientation,
    WorkingGrid,
    apply_matrices,
    axis_matrix,
    extent,
    labels_back,
    oriented,
    window_shapes,
    window_starts,
)
from iris_core.intensity import detect_scheme, normalise
from iris_core.model.iris import Iris, precision
from iris_core.model.mask_decoder import SURE_OF, sureness
from iris_core.model.task_encoder import Task
from iris_core.registration import Registered, Scan, carry_over, register

MAX_LOGIT_BYTES = 8 * 2**30
MANY_WINDOWS = 4  # from here on, look where the structures are first. Ours
SURE = 0.7  # mean probability inside what the coarse pass found. Ours
MARGIN = 3  # samples of the coarse pass around what it found
ABSENT = -20.0  # logit
AIR = 0.25, 0.001  # a window is empty where less than that share stands out by so much, in standard deviations. Ours


@dataclass(frozen=True)
class Region:
    """What a coarse pass found. allowed: (K, *samples) bool on its own grid; sure: (K,) bool."""

    grid: WorkingGrid
    allowed: Tensor
    sure: Tensor


@torch.inference_mode()
def segment(
    model: Iris,
    embedding: TaskEmbedding,
    query: Case,
    progress: Callable[[int, int], None] = lambda done, of: None,
    locate: bool = True,
) -> np.ndarray:
    """Labels (x, y, z) int32 in the query's own axis order and grid.

    Windows with 50 % overlap, blended by a Gaussian (paper: averaged). Logits are summed at the model's output
    stride on the working grid and brought to the query's grid slab by slab. progress: called with windows done, all.

    The query is registered to each of T's references once, before anything else; windows read the one field. Windows of
    air are left out.

    A task that a CT showed is carried to another modality by the query's own percentiles: clipping to Hounsfield units
    would cut an MR's bright half off.

    locate: where the field of view takes MANY_WINDOWS or more and T has an overview, a coarse pass over the whole
    query comes first: by registration alone, then by the model for classes that registration is not sure of. Each class
    that the pass is sure of is then looked for there alone; and if it is sure of all of them, the windows cover only
    those places. Else, or if one of them is then not found there, they cover everything.
    """
    device = next(model.parameters()).device
    scheme = detect_scheme(query.image) if embedding.scheme == "ct" else embedding.scheme
    image, spacing_mm = oriented(query, normalise(query.image, scheme))
    volume = torch.from_numpy(np.ascontiguousarray(image))
    grid = WorkingGrid(image.shape, spacing_mm, embedding.spacing_mm)
    registered = []
    for shown in embedding.shown if model.registers else ():
        progress(0, len(cover(model, grid)))
        registered.append(register(Scan(volume.to(device), spacing_mm), shown.to(device)))
    region = _locate(model, embedding, volume, grid, device, registered) if locate else None
    logits = window_logits(model, embedding.task, volume, grid, device, registered, progress, region)
    if region is not None and (lost := region.sure & (sureness(logits) < SURE)).any():
        region = replace(region, sure=region.sure & ~lost)
        logits = window_logits(model, embedding.task, volume, grid, device, registered, progress, region)
    labels = labels_back(grid, logits, embedding.values, model.config.stem_stride, embedding.overlapping)
    return np.ascontiguousarray(Orientation.of(query.affine).invert(labels))


def _locate(
    model: Iris,
    embedding: TaskEmbedding,
    volume: Tensor,
    grid: WorkingGrid,
    device: torch.device,
    registered: Sequence[Registered],
) -> Region | None:
    """The coarse pass: at the finest overview that takes few windows. None if it would not spare any."""
    overview = coarse_pass(model, embedding, grid)
    if overview is None:
        return None
    coarse = WorkingGrid(grid.shape, grid.spacing_mm, overview.spacing_mm)
    logits = _believed(model, coarse, device, registered, len(embedding.values))
    sure = sureness(logits) >= SURE_OF[1]
    if not sure.all():
        learnt = window_logits(model, overview.task, volume, coarse, device, registered)
        logits = torch.where(sure[:, None, None, None], logits, learnt)
        sure = sure | (sureness(learnt) >= SURE)
    allowed = F.max_pool3d((logits > 0)[None].float(), 2 * MARGIN + 1, 1, MARGIN)[0] > 0
    return Region(coarse, allowed, sure)


def _believed(model: Iris, grid: WorkingGrid, device: torch.device, registered: Sequence[Registered], k: int) -> Tensor:
    """What registration alone says on a working grid: logits (K, *samples)."""
    stride = model.config.stem_stride
    samples = tuple(-(-n // stride) for n in grid.working_shape)
    if not registered:
        return torch.full((k, *samples), ABSENT)
    places = grid.places_mm((0, 0, 0), tuple(n * stride for n in samples), stride).to(device)
    return model.mask_decoder.evidence.belief(carry_over(registered, places))[0].cpu()


def coarse_pass(model: Iris, embedding: TaskEmbedding, grid: WorkingGrid) -> Overview | None:
    """The overview at which ``segment`` looks first where the structures are, or None if it does not."""
    full = len(cover(model, grid))
    for overview in embedding.overviews if full >= MANY_WINDOWS else ():
        coarse = WorkingGrid(grid.shape, grid.spacing_mm, overview.spacing_mm)
        if len(cover(model, coarse)) <= max(1, full // 4):
            return overview
    return None


def cover(model: Iris, grid: WorkingGrid, low=(0, 0, 0), high=None) -> list[tuple[tuple, tuple]]:
    """(start, shape) of the windows that cover a part of the working grid, by default all of it."""
    config, high = model.config, high or grid.working_shape
    lengths = [b - a for a, b in zip(low, high, strict=True)]
    shape = window_shapes(lengths, lengths, config.window, config.multiple)
    per_axis = []
    for first, n, s, limit in zip(low, lengths, shape, grid.working_shape, strict=True):
        starts = [first + i for i in window_starts(n, s, multiple=config.stem_stride)]
        inner = max(limit - s, 0) // config.stem_stride * config.stem_stride
        per_axis.append(starts if n > s or limit < s else [min(max(i, 0), inner) for i in starts])
    return [(start, shape) for start in itertools.product(*per_axis)]


def window_logits(
    model: Iris,
    task: Task,
    image: Tensor,
    grid: WorkingGrid,
    device: torch.device,
    registered: Sequence[Registered],
    progress: Callable[[int, int], None] = lambda done, of: None,
    region: Region | None = None,
) -> Tensor:
    """Blended logits (K, *samples) over the working grid; one sample covers stem_stride voxels along each axis.

    registered: the query on T's references.
    """
    stride = model.config.stem_stride
    samples = tuple(-(-n // stride) for n in grid.working_shape)
    k = task.tokens.shape[1]
    if (need := 4 * k * math.prod(samples)) > MAX_LOGIT_BYTES:
        raise InputError(
            f"{k} classes over a field of view of {grid.working_shape} voxels of"
            f" {grid.working_mm:.2f} mm need {need / 2**30:.1f} GiB, the limit is {MAX_LOGIT_BYTES / 2**30:.0f};"
            " crop the query or show fewer classes"
        )
    allowed = None if region is None else _on(region, grid, samples, stride)
    windows = cover(model, grid)
    if allowed is not None and region.sure.all() and allowed.any():
        low, high = (stride * corner for corner in extent(allowed.any(0).numpy()))
        high = np.minimum(high, grid.working_shape)
        windows = cover(model, grid, tuple(map(int, low)), tuple(map(int, high)))
    total = torch.zeros(k, *samples)
    weight = torch.zeros(samples)
    task = task.map(lambda t: t.to(device))
    darkest = float(image.min())
    for done, (start, shape) in enumerate(windows):
        progress(done, len(windows))
        cut = apply_matrices(image, grid.window_matrices(start, shape))[None, None].to(device)
        if (cut > darkest + AIR[0]).sum() < AIR[1] * cut.numel():
            logits = torch.full((k, *(n // stride for n in shape)), ABSENT)
        else:
            places = grid.places_mm(start, shape, stride).to(device)
            carried = carry_over(registered, places) if registered else None
            with precision(device):
                box = grid.box(start, shape)[None].to(device)
                logits = model.decoded(cut, task, box, carried)[0].float().cpu()
        importance = _gaussian(tuple(n // stride for n in shape))
        where, part = [], []
        for first, n, limit in zip(start, importance.shape, samples, strict=True):
            low = first // stride
            where.append(slice(max(low, 0), min(low + n, limit)))
            part.append(slice(max(-low, 0), min(low + n, limit) - low))
        total[(slice(None), *where)] += (logits * importance)[(slice(None), *part)]
        weight[tuple(where)] += importance[tuple(part)]
    progress(len(windows), len(windows))
    logits = torch.where(weight > 0, total / weight.clamp_min(1e-6), ABSENT)
    return logits if allowed is None else logits.masked_fill_(~allowed, ABSENT)


def _on(region: Region, grid: WorkingGrid, samples: tuple[int, ...], stride: int) -> Tensor:
    """``allowed`` on the samples of a finer grid of the same volume; everywhere for a class that is not sure."""
    matrices = []
    for axis in range(3):
        ratio = grid.working_mm / region.grid.working_mm
        fine = (np.arange(samples[axis]) + 0.5) * stride - grid.working_shape[axis] / 2
        coarse = (fine * ratio + region.grid.working_shape[axis] / 2) / stride - 0.5
        matrices.append(axis_matrix(region.allowed.shape[axis + 1], coarse))
    near = apply_matrices(region.allowed.float(), tuple(matrices)) > 0.5
    return near | ~region.sure[:, None, None, None]


def _gaussian(shape: tuple[int, ...]) -> Tensor:
    """Importance of a window's samples: σ = 1/8 of the edge, as in nnU-Net, never below a thousandth."""
    lines = [torch.exp(-0.5 * ((torch.arange(n) + 0.5 - n / 2) / (n / 8)) ** 2) for n in shape]
    return (lines[0][:, None, None] * lines[1][:, None] * lines[2]).clamp_min(1e-3)
