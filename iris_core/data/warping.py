"""Deformed windows of anatomies."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.data.framing import Window
from iris_core.data.painting import noise_field

ROTATION, ZOOM, SHEAR = 0.25, 0.15, 0.05  # radians and shares, standard deviation of a normal distribution over 2
FOLD_LIMIT = 0.35  # displacement / distance of control points: below a half, a deformation does not fold


@dataclass(frozen=True)
class Anatomy:
    """labels (x, y, z) int32, positive: background is 1. spacing in mm. image: of the same shape, or None: painted."""

    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    image: np.ndarray | None = None

    def cropped(self, low: np.ndarray, high: np.ndarray) -> "Anatomy":
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return replace(self, labels=self.labels[box], image=None if self.image is None else self.image[box])


def sample_window(
    rng: np.random.Generator, anatomy: Anatomy, window: Window, strength: float, values: np.ndarray, rows: np.ndarray
) -> tuple[Tensor, Tensor]:
    """A deformed window: channels (C, x, y, z), and which of its voxels lie beyond the field of view, (x, y, z) bool.

    values (n,): the anatomy's labels, sorted. rows (n, c): numbers that each label stands for, such as its grey value,
    or 1 for the members of a class. They become channels, after the image if there is one, and are averaged and
    interpolated as the image is: where a voxel is partly this and partly that, so are its numbers.
    """
    index = _moved(rng, window, strength, anatomy.spacing_mm)
    size = np.array(anatomy.labels.shape)
    outside = torch.zeros(index.shape[1:], dtype=torch.bool)
    for line, n in zip(index, size, strict=True):
        outside |= (line < -0.5) | (line > n - 0.5)
    steps = [max(1, int(window.grid.working_mm / s)) for s in anatomy.spacing_mm]  # so that sampling skips nothing
    steps = np.minimum(steps, size)
    low = (index.amin((1, 2, 3)).numpy() - 1).astype(int).clip(0, size - steps) // steps * steps
    high = (index.amax((1, 2, 3)).numpy() + 2 + steps).astype(int).clip(low + steps, size)
    high -= (high - low) % steps
    part = anatomy.cropped(low, high)
    which = np.searchsorted(values, part.labels)
    volumes = [] if part.image is None else [part.image]
    volumes = torch.stack([_averaged(v, steps) for v in (*volumes, *(column[which] for column in rows.T))])
    for line, first, last in zip(index, low.tolist(), high.tolist(), strict=True):
        line.sub_(first - 0.5).mul_(2 / (last - first)).sub_(1)
    where = index.flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volumes[None], where, "bilinear", "border", align_corners=False)[0], outside


def _averaged(volume: np.ndarray, steps: np.ndarray) -> Tensor:
    """Means of blocks of ``steps`` voxels, float32."""
    volume = torch.from_numpy(np.ascontiguousarray(volume, np.float32))
    return volume if max(steps) == 1 else F.avg_pool3d(volume[None], steps.tolist())[0]


def _moved(rng: np.random.Generator, window: Window, strength: float, spacing_mm: tuple[float, ...]) -> Tensor:
    """Where a window's voxels come from, as index in the anatomy: (3, x, y, z)."""
    grid, shape = window.grid, tuple(int(n) for n in window.shape)
    along = [grid.positions(a, window.start[a] + np.arange(shape[a])) * spacing_mm[a] for a in range(3)]
    axes = torch.meshgrid(*(torch.from_numpy(line.astype(np.float32)) for line in along), indexing="ij")
    mm = torch.stack(axes)
    centre = mm.mean((1, 2, 3), keepdim=True)
    linear = np.eye(3) + strength * rng.normal(0, SHEAR, (3, 3)) * (1 - np.eye(3))
    linear = linear @ np.diag(np.exp(strength * rng.uniform(-ZOOM, ZOOM, 3))) @ rotation(rng, strength * ROTATION / 2)
    moved = torch.tensordot(torch.from_numpy(linear.astype(np.float32)), mm - centre, dims=1)
    moved += centre
    if strength > 0:
        points = int(rng.integers(3, 9))
        reach = FOLD_LIMIT * strength * rng.uniform() * grid.working_mm * max(shape) / points
        moved += noise_field(rng, 3, points, shape).clamp_(-2, 2).mul_(reach / 2)
    return moved / torch.tensor(spacing_mm, dtype=torch.float32)[:, None, None, None]


def rotation(rng: np.random.Generator, deviation: float) -> np.ndarray:
    """A rotation by small normal angles around all three axes."""
    result = np.eye(3)
    for axis, angle in enumerate(rng.normal(0, deviation, 3)):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result
