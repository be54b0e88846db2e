"""References → task embeddings: working spacing, intensity scheme, windows. What all strategies share."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iris_core.case import Case, InputError, LabelClass
from iris_core.embeddings import Level, TaskEmbedding, combine, context_ensemble, geometric_mean, thinned
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
from iris_core.registration import Lattice, Scan, prepare
from iris_core.strategies.base import Context, EncodedReference
from iris_core.strategies.search import Library

PAPER_SPACING_MM = 1.5
OVERVIEWS = (2, 4)  # × the working spacing. Ours
DETAIL = 0.6  # the same, but not below half a voxel of the reference. Ours
GRIDS = ("auto", "paper")


def shared_scale(
    model: Iris, references: Iterable[Case], grid: str = "auto", scheme: str | None = None
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
        if reference.labels is None or not classes:
            raise InputError(f"{reference.name}: the reference must show at least one class, its mask is empty")
        schemes[scheme or detect_scheme(reference.image)] = reference.name
        labels, spacing_mm = oriented(reference, reference.labels)
        if grid == "auto":
            masks = (c.mask(labels) for c in classes)
            spacings.append(choose_spacing(masks, spacing_mm, model.config.window))
    if len(schemes) > 1:
        raise InputError(f"references must share one intensity scheme, found {schemes}; set it")
    return (geometric_mean(spacings) if spacings else PAPER_SPACING_MM), next(iter(schemes))


def encode(model: Iris, *references: Case, grid: str = "auto", scheme: str | None = None) -> TaskEmbedding:
    """The task of one reference, or the mean of several (context ensemble: paper, section 3.5).

    references: cases with labels. grid: 'auto' chooses the working spacing from the references, 'paper' is 1.5 mm.
    scheme: 'ct' for Hounsfield units, 'percentile' for everything else; None looks at the references. Raises InputError
    where there is no reference, where one has no labelled voxel, or where they do not go together.
    """
    context = Context(model, references, grid=grid, scheme=scheme)
    context.require_references("encode")
    return mean_of(encode_all(context))


def encode_all(context: Context) -> Library:
    """Every reference, at one working spacing and with one intensity scheme; then those that are encoded already.

    A pool on disk that is all there is stays there.
    """
    if not context.references and isinstance(context.encoded, Library):
        return context.encoded
    encoded: list[EncodedReference] = []
    if context.references:
        spacing_mm, scheme = shared_scale(context.model, context.references, context.grid, context.scheme)
    for reference in context.references:

        def progress(*_: int, done: int = len(encoded)) -> None:
            context.progress(done, len(context.references))

        progress()
        embedding = encode_at(context.model, reference, spacing_mm, scheme, context.grid == "auto", progress)
        encoded.append(EncodedReference(reference.name, embedding))
    return Library([*encoded, *context.encoded])


def mean_of(pool: Sequence[EncodedReference]) -> TaskEmbedding:
    """The context ensemble of encoded references."""
    return context_ensemble([reference.embedding for reference in pool])


@dataclass(frozen=True)
class ReferenceWindow:
    """image (1, 1, x, y, z), masks (1, K, x, y, z) and box (1, 2, 3), on the model's device. lattice: of its voxels."""

    image: Tensor
    masks: Tensor
    box: Tensor
    lattice: Lattice


@torch.inference_mode()
def encode_at(
    model: Iris,
    reference: Case,
    spacing_mm: float,
    scheme: str,
    levels: bool,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> TaskEmbedding:
    """T of every class of a reference, at a working spacing; with ``levels`` at coarser and finer ones too.

    A mask larger than a window is encoded window by window (no overlap) and averaged by each class's volume in them.
    progress: called before every window, with spacings done, all.
    """
    classes = reference.present()
    volumes = Volumes.of(reference, scheme)
    coarser = [spacing_mm * step for step in OVERVIEWS] if levels else []
    detail_mm = max(spacing_mm * DETAIL, min(volumes.spacing_mm) / 2)
    finer = [detail_mm] if levels and detail_mm < 0.9 * spacing_mm else []
    tasks: list[Task] = []
    spacings_mm = spacing_mm, *coarser, *finer
    for working_mm in spacings_mm:
        parts, weights = [], []
        for window in reference_windows(model, volumes, working_mm):
            progress(len(tasks), len(spacings_mm))
            with precision(window.image.device):
                parts.append(model.encode_task(model.encode_image(window.image), window.masks, window.box))
            weights.append(window.masks[0].sum((1, 2, 3)))
        task = combine(parts, torch.stack(weights))
        tasks.append(thinned(task).rounded())
    working, *others = (Level(task, mm) for task, mm in zip(tasks, spacings_mm, strict=True))
    return TaskEmbedding(
        task=working.task,
        values=tuple(c.value for c in classes),
        names=tuple(c.name for c in classes),
        spacing_mm=spacing_mm,
        scheme=scheme,
        overlapping=any(len(c.members) > 1 for c in classes),
        overviews=tuple(others[: len(coarser)]),
        detail=others[-1] if finer else None,
        references=(prepare(volumes.scan, list(map(torch.from_numpy, volumes.masks))),) if model.registers else (),
    )


def as_reference(query: Case, labels: np.ndarray, embedding: TaskEmbedding) -> Case:
    """A query with what was found in it, as if somebody had shown it."""
    classes = tuple(LabelClass(n, v, (v,)) for n, v in zip(embedding.names, embedding.values, strict=True))
    return replace(query, labels=labels, classes=classes, ignore=None)


@dataclass(frozen=True)
class Volumes:
    """A reference as the model takes it: the normalised image (x, y, z) in RAS+ order, a boolean mask a class."""

    image: np.ndarray
    masks: list[np.ndarray]
    spacing_mm: tuple[float, ...]

    @property
    def scan(self) -> Scan:
        return Scan(torch.from_numpy(self.image), self.spacing_mm)

    @classmethod
    def of(cls, reference: Case, scheme: str) -> "Volumes":
        if reference.labels is None:
            raise InputError(f"{reference.name}: a reference must have a mask, it has none")
        image, spacing_mm = oriented(reference, normalise(reference.image, scheme))
        labels, _ = oriented(reference, reference.labels)
        return cls(np.ascontiguousarray(image), [c.mask(labels) for c in reference.present()], spacing_mm)


def reference_windows(model: Iris, reference: Volumes, working_mm: float) -> Iterator[ReferenceWindow]:
    """The windows that hold what a reference shows: one around it, or several side by side if it is larger."""
    volumes = [torch.from_numpy(v) for v in (reference.image, *reference.masks)]
    grid = WorkingGrid(reference.image.shape, reference.spacing_mm, working_mm)
    shown = functools.reduce(np.logical_or, reference.masks)
    size = (np.diff(extent(shown), axis=0)[0] * reference.spacing_mm / working_mm).clip(max=grid.working_shape)
    window, multiple = model.config.window, model.config.multiple
    lengths = [n if across <= window else math.ceil(across) for n, across in zip(grid.working_shape, size, strict=True)]
    shape = window_shapes(grid.working_shape, lengths, window, multiple)
    device = next(model.parameters()).device
    for start in _windows(shown, grid, shape):
        matrices = grid.window_matrices(start, shape)
        cut = torch.stack([apply_matrices(v, matrices) for v in volumes])[None].to(device)
        if cut[:, 1:].any():
            box = grid.box(start, shape)[None].to(device)
            yield ReferenceWindow(cut[:, :1], cut[:, 1:], box, Lattice(shape, working_mm, grid.centre_mm(start, shape)))


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
