"""How long a query will take and how much memory, from the windows that inference will look at."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding
from iris_core.geometry import Orientation, Scores, WorkingGrid, extent, labels_back
from iris_core.inference import MARGIN, coarse_pass, cover, worth
from iris_core.intensity import normalise
from iris_core.model.iris import Iris, precision
from iris_core.region import Box, Corner
from iris_core.registration import Lattice, Registered, Scan, carry_over, register

PROBE = 64**3  # voxels of the volumes that are timed
PATIENCE = 1.0  # seconds; a window that takes longer is timed once
# Bytes a voxel of a window: of the encoder, by stem stride, and of the decoder for each class. From the table of peaks
# that benchmarks/one_shot.py prints, which they meet within 6 %.
ENCODER = {1: 640, 2: 275}
DECODER = 45
VOLUME = 20  # bytes a voxel of the query: image, clipped, normalised, in order, and one for the moment
SLAB = 3 * 4 * 2**24  # bytes that labels_back takes at most


@dataclass(frozen=True)
class Work:
    """What ``segment`` will do with a query.

    windows: shapes of all windows, the coarse pass's and the closer look's among them, if the coarse pass finds the
    structures and they are as large as in the references.
    if_lost: the same if they are not there after all, which cannot be known before. k: classes. voxels: of the query.
    samples: of the logits. registrations: of the query to references.
    """

    windows: tuple[tuple[int, ...], ...]
    if_lost: tuple[tuple[int, ...], ...]
    k: int
    voxels: int
    samples: int
    registrations: int

    def bytes(self, model: Iris) -> int:
        """Memory at the peak, beyond the model and the task."""
        logits = 3 * 4 * self.k * self.samples  # the sum, the mean and what it is made of
        each = max(ENCODER[model.config.stem_stride], DECODER * self.k)
        window = each * max(math.prod(shape) for shape in self.if_lost)
        back = logits // 3 + min(SLAB, 12 * self.k * self.voxels)
        return VOLUME * self.voxels + max(window + logits, back)


def work(model: Iris, embedding: TaskEmbedding, query: Case) -> Work:
    """Which windows a query needs. Raises InputError if its working grid is too large."""
    config, grid, edges_mm = model.config, _grid(embedding, query), _edges_mm(embedding)
    fine = cover(model, grid)
    around, coarse, found = MARGIN * config.stem_stride, [], fine
    if overview := coarse_pass(model, embedding, grid):
        coarse = cover(model, WorkingGrid(grid.shape, grid.spacing_mm, overview.spacing_mm))
        found = cover(model, grid, *_middle(grid, edges_mm + 2 * around * overview.spacing_mm))
    closer: list[tuple[Corner, Corner]] = []
    if embedding.detail and grid.fits(embedding.detail.spacing_mm):
        finer = WorkingGrid(grid.shape, grid.spacing_mm, embedding.detail.spacing_mm)
        closer = cover(model, finer, *_middle(finer, edges_mm + 2 * around * finer.working_mm))
        closer = closer if worth(closer, found, config.window) else []
    windows, if_lost = (*coarse, *found, *closer), (*coarse, *(found if coarse else ()), *fine, *closer)
    return Work(
        windows=tuple(shape for _, shape in windows),
        if_lost=tuple(shape for _, shape in if_lost),
        k=len(embedding.values),
        voxels=math.prod(grid.shape),
        samples=math.prod(grid.working_shape),
        registrations=len(embedding.references) if model.registers else 0,
    )


def _grid(embedding: TaskEmbedding, query: Case) -> WorkingGrid:
    axes = list(Orientation.of(query.affine).axes)
    shape = tuple(query.image.shape[a] for a in axes)
    return WorkingGrid(shape, tuple(float(s) for s in query.spacing_mm[axes]), embedding.spacing_mm)


def _edges_mm(embedding: TaskEmbedding) -> np.ndarray:
    """Edges (3,) of a box as large as the structures in the references; endless where there are no references."""
    edges_mm = np.full(3, 0.0 if embedding.references else np.inf)
    for reference in embedding.references:
        labels = reference.masks.labels.cpu().numpy()
        if labels.any():  # what is thinner than half a cell is not there
            first, last = extent(labels > 0)
            edges_mm = np.maximum(edges_mm, (last - first) * reference.masks.lattice.cell_mm)
    return edges_mm


def _middle(grid: WorkingGrid, edges_mm: np.ndarray) -> Box:
    """Corners on a working grid of a box of that size in its middle, or of all of it if that is less."""
    whole = np.array(grid.working_shape)
    size = np.minimum(np.ceil(edges_mm / grid.working_mm), whole).astype(int)
    low = (whole - size) // 2
    return tuple(low.tolist()), tuple((low + size).tolist())


@torch.inference_mode()
def registration_seconds(embedding: TaskEmbedding, device: torch.device) -> tuple[float, Registered]:
    """Seconds that registering a query to the embedding's first reference takes on this machine, whatever its size:
    measured on noise; and what came of it."""
    shown = embedding.references[0].to(device)
    low, high = shown.scales[0].view
    spacing = float(((high - low).prod() / PROBE) ** (1 / 3))
    shape = [max(1, round(float(edge) / spacing)) for edge in high - low]
    noise = Scan(torch.randn(shape, device=device), (spacing,) * 3)
    started = time.perf_counter()
    found = register(noise, shown)
    return time.perf_counter() - started, found


@torch.inference_mode()
def window_seconds(
    model: Iris, embedding: TaskEmbedding, shape: tuple[int, ...], registered: Sequence[Registered]
) -> float:
    """Seconds that one window of zeros takes on this machine, with the embedding's classes."""
    device = next(model.parameters()).device
    task = embedding.task.map(lambda t: t.to(device))
    box = torch.tensor([[[-1.0] * 3, [1.0] * 3]], device=device)

    def decode() -> float:
        started = time.perf_counter()
        carried = carry_over(registered, Lattice(shape, 1.0), model.config.stem_stride) if registered else None
        with precision(device):
            model.decoded(torch.zeros(1, 1, *shape, device=device), task, box, carried)[0].float().cpu()
        return time.perf_counter() - started

    first = decode()
    return first if first > PATIENCE else min(first, decode())  # a first call also loads what it needs


def voxel_seconds(embedding: TaskEmbedding, query: Case) -> float:
    """Seconds for each voxel of a query, beside the windows: normalising, and bringing the labels back. Measured on
    noise of the query's height and depth."""
    grid = _grid(embedding, query)
    _, y, z = grid.shape
    grid = replace(grid, shape=(max(1, PROBE // (y * z)), y, z))
    image = np.random.default_rng(0).random(grid.shape, np.float32)
    scores = torch.rand(len(embedding.values), *grid.working_shape)
    started = time.perf_counter()
    normalise(image, embedding.scheme)
    labels_back(Scores(grid, (0, 0, 0), scores), embedding.values, embedding.overlapping)
    return (time.perf_counter() - started) / image.size
