"""A query and a TaskEmbedding → labels on the query's own grid. Decoding exists here, once."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import Level, TaskEmbedding
from iris_core.geometry import (
    Orientation,
    Scores,
    WorkingGrid,
    apply_matrices,
    oriented,
    window_shapes,
    window_starts,
)
from iris_core.intensity import detect_scheme, normalise
from iris_core.model.iris import Iris, precision
from iris_core.model.mask_decoder import sureness
from iris_core.model.task_encoder import Task
from iris_core.prediction import Prediction
from iris_core.region import Box, Corner, Region, scaled, widened
from iris_core.registration import Carried, Lattice, Registered, Scan, carry_over, register

MAX_LOGIT_BYTES = 8 * 2**30
MANY_WINDOWS = 4  # from here on, look where the structures are first. Ours
SURE_OF = 0.85  # mean probability inside what registration alone finds: from here on it is believed. Ours
SURE = 0.7  # mean probability inside what the model finds: the same for it. Ours
MARGIN = 3  # samples of the network in the coarse pass around what it found
ABSENT = -20.0  # logit
AIR = 0.25, 0.001  # a window is empty where less than that share stands out by so much, in standard deviations. Ours


def segment(
    model: Iris,
    embedding: TaskEmbedding,
    query: Case,
    progress: Callable[[int, int], None] = lambda done, of: None,
    locate: bool = True,
    closer: bool = True,
) -> np.ndarray:
    """Labels (x, y, z) int32 in the query's own axis order and grid. See ``predict``."""
    return predict(model, embedding, query, progress, locate, closer).labels()


@torch.inference_mode()
def predict(
    model: Iris,
    embedding: TaskEmbedding,
    query: Case,
    progress: Callable[[int, int], None] = lambda done, of: None,
    locate: bool = True,
    closer: bool = True,
) -> Prediction:
    """A query's scores, with its labels (x, y, z) int32 in its own axis order and grid.

    Windows with 50 % overlap, blended by a Gaussian (paper: averaged). Logits are summed on the working grid and
    brought to the query's grid slab by slab. progress: called with windows done, all.

    The query is registered to each of T's references once, before anything else; windows read the one field. Windows of
    air are left out.

    A task that a CT showed is carried to another modality by the query's own percentiles: clipping to Hounsfield units
    would cut an MR's bright half off.

    locate: where the field of view takes MANY_WINDOWS or more and T has an overview, a coarse pass over the whole
    query comes first: by registration alone, then by the model too for classes that registration is not sure of. Each
    class that the pass is sure of is then looked for there alone, where either found it; and if it is sure of all of
    them, the windows cover only those places. Else, or if one of them is then not found there, they cover everything.

    closer: where T has a detail, what was found is looked at again at its finer spacing, if that takes no more than the
    windows before, or one. The answer is the mean of both.
    """
    device = next(model.parameters()).device
    volume, grid = _placed(embedding, query)
    windows = len(cover(model, grid))
    registered = []
    for reference in embedding.references if model.registers else ():
        progress(0, windows)
        registered.append(register(Scan(volume, grid.spacing_mm).to(device), reference.to(device)))
    region = _locate(model, embedding, volume, grid, device, registered) if locate else None
    scores = window_logits(model, embedding.task, volume, grid, device, registered, progress, region)
    if region is not None and (lost := region.sure & (sureness(scores.values) < SURE)).any():
        region = replace(region, sure=region.sure & ~lost)
        scores = window_logits(model, embedding.task, volume, grid, device, registered, progress, region)
    scores = _closer(model, embedding, volume, scores, device, registered, progress) if closer else scores
    return _prediction(scores, embedding, query)


@torch.inference_mode()
def carried_labels(model: Iris, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    """Labels as of ``segment``, by registration alone."""
    device = next(model.parameters()).device
    volume, grid = _placed(embedding, query)
    registered = [register(Scan(volume, grid.spacing_mm).to(device), r.to(device)) for r in embedding.references]
    scores = Scores(grid, (0, 0, 0), _believed(model, grid, registered, len(embedding.values)))
    return _prediction(scores, embedding, query).labels()


def _prediction(scores: Scores, embedding: TaskEmbedding, query: Case) -> Prediction:
    return Prediction(scores, embedding.values, embedding.overlapping, Orientation.of(query.affine))


def _placed(embedding: TaskEmbedding, query: Case) -> tuple[Tensor, WorkingGrid]:
    """A query's image in RAS+ order, normalised, and its working grid."""
    scheme = detect_scheme(query.image) if embedding.scheme == "ct" else embedding.scheme
    image, spacing_mm = oriented(query, normalise(query.image, scheme))
    grid = WorkingGrid(image.shape, spacing_mm, embedding.spacing_mm)
    return torch.from_numpy(np.ascontiguousarray(image)), grid


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
    logits = _believed(model, coarse, registered, len(embedding.values))
    sure = sureness(logits) >= SURE_OF
    if not sure.all():
        learnt = window_logits(model, overview.task, volume, coarse, device, registered).values
        logits = torch.where(sure[:, None, None, None], logits, torch.maximum(logits, learnt))
        sure = sure | (sureness(learnt) >= SURE)
    return Region(Scores(coarse, (0, 0, 0), widened(logits > 0, MARGIN * model.config.stem_stride)), sure)


def _closer(
    model: Iris,
    embedding: TaskEmbedding,
    volume: Tensor,
    scores: Scores,
    device: torch.device,
    registered: Sequence[Registered],
    progress: Callable[[int, int], None],
) -> Scores:
    """The detail pass: the same part of the query at a finer spacing, and the mean of both answers."""
    found = (scores.values > 0).any(0)
    detail = embedding.detail
    if detail is None or not found.any() or not scores.grid.fits(detail.spacing_mm):
        return scores
    grid = WorkingGrid(scores.grid.shape, scores.grid.spacing_mm, detail.spacing_mm)
    margin = MARGIN * model.config.stem_stride
    low, high = scaled(scores.grid, scores.start, found, grid, margin)
    size = tuple(b - a for a, b in zip(low, high, strict=True))
    before = cover(model, scores.grid, scores.start, np.add(scores.start, found.shape).tolist())
    if not worth(cover(model, grid, low, high), before, model.config.window):
        return scores
    finer = window_logits(model, detail.task, volume, grid, device, registered, progress, box=(low, high))
    return replace(finer, values=(finer.values + scores.on(grid, low, size)) / 2)


def worth(closer: list[tuple[Corner, Corner]], before: list[tuple[Corner, Corner]], edge: int) -> bool:
    """Whether windows at a finer spacing have no more voxels than those before, or than one of that edge."""
    voxels, voxels_before = (sum(math.prod(shape) for _, shape in windows) for windows in (closer, before))
    return voxels <= max(voxels_before, edge**3)


def _believed(model: Iris, grid: WorkingGrid, registered: Sequence[Registered], k: int) -> Tensor:
    """What registration alone says on a working grid: logits (K, *working_shape)."""
    if not registered:
        return torch.full((k, *grid.working_shape), ABSENT)
    stride, (x, y, z) = model.config.stem_stride, grid.working_shape
    carried = _carried(registered, grid, (0, 0, 0), grid.working_shape, stride)
    certainty = F.interpolate(carried.certainty, scale_factor=stride)
    return model.mask_decoder.evidence.belief(carried.masks, certainty)[0, :, :x, :y, :z].cpu()


def _carried(registered: Sequence[Registered], grid: WorkingGrid, start: Corner, shape: Corner, stride: int) -> Carried:
    """Masks in a window, whose edges are made multiples of the stride."""
    shape = tuple(-(-n // stride) * stride for n in shape)
    return carry_over(registered, Lattice(shape, grid.working_mm, grid.centre_mm(start, shape)), stride)


def coarse_pass(model: Iris, embedding: TaskEmbedding, grid: WorkingGrid) -> Level | None:
    """The overview at which ``segment`` looks first where the structures are, or None if it does not."""
    full = len(cover(model, grid))
    for overview in embedding.overviews if full >= MANY_WINDOWS else ():
        coarse = WorkingGrid(grid.shape, grid.spacing_mm, overview.spacing_mm)
        if len(cover(model, coarse)) <= max(1, full // 4):
            return overview
    return None


def cover(
    model: Iris, grid: WorkingGrid, low: Sequence[int] = (0, 0, 0), high: Sequence[int] | None = None
) -> list[tuple[Corner, Corner]]:
    """(start, shape) of the windows that cover a part of the working grid, by default all of it."""
    config, high = model.config, high or grid.working_shape
    lengths = [b - a for a, b in zip(low, high, strict=True)]
    shape = window_shapes(lengths, lengths, config.window, config.multiple)
    per_axis = []
    for first, n, s, limit in zip(low, lengths, shape, grid.working_shape, strict=True):
        starts = [first + i for i in window_starts(n, s, multiple=config.stem_stride)]
        inner = max(limit - s, 0)
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
    box: Box | None = None,
) -> Scores:
    """Blended logits, one a voxel of the working grid: of all of it, of a box, or of what a region leaves to look at.

    registered: the query on T's references.
    """
    k, stride = task.tokens.shape[1], model.config.stem_stride
    low, high = box or (((0, 0, 0), grid.working_shape) if region is None else region.extent(grid))
    size = tuple(b - a for a, b in zip(low, high, strict=True))
    if (need := 4 * k * math.prod(size)) > MAX_LOGIT_BYTES:
        raise InputError(
            f"{k} classes over a field of view of {size} voxels of"
            f" {grid.working_mm:.2f} mm need {need / 2**30:.1f} GiB, the limit is {MAX_LOGIT_BYTES / 2**30:.0f};"
            " crop the query or show fewer classes"
        )
    windows = cover(model, grid, low, high)
    total = torch.zeros(k, *size)
    weight = torch.zeros(size)
    task = task.map(lambda t: t.to(device))
    darkest = float(image.min())
    for done, (start, shape) in enumerate(windows):
        progress(done, len(windows))
        cut = apply_matrices(image, grid.window_matrices(start, shape))[None, None].to(device)
        if (cut > darkest + AIR[0]).sum() < AIR[1] * cut.numel():
            logits = torch.full((k, *shape), ABSENT)
        else:
            carried = _carried(registered, grid, start, shape, stride) if registered else None
            with precision(device):
                corners = grid.box(start, shape)[None].to(device)
                logits = model.decoded(cut, task, corners, carried)[0].float().cpu()
        where, part = [], []
        for first, n, begin, length in zip(start, shape, low, size, strict=True):
            at = first - begin
            where.append(slice(max(at, 0), min(at + n, length)))
            part.append(slice(max(-at, 0), min(at + n, length) - at))
        importance = _gaussian(shape)[tuple(part)]
        total[(slice(None), *where)] += logits[(slice(None), *part)].mul_(importance)
        weight[tuple(where)] += importance
    progress(len(windows), len(windows))
    total /= weight.clamp_min(1e-6)
    total.masked_fill_(weight == 0, ABSENT)
    if region is not None:
        total.masked_fill_(~region.on(grid, low, size), ABSENT)
    return Scores(grid, low, total)


def _gaussian(shape: tuple[int, ...]) -> Tensor:
    """Importance of a window's voxels: σ = 1/8 of the edge, as in nnU-Net, never below a thousandth."""
    lines = [torch.exp(-0.5 * ((torch.arange(n) + 0.5 - n / 2) / (n / 8)) ** 2) for n in shape]
    return (lines[0][:, None, None] * lines[1][:, None] * lines[2]).clamp_min(1e-3)
