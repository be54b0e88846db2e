"""Where in a query to look: what a coarse pass leaves of the working grid."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from iris_core.geometry import Scores, WorkingGrid, extent

Corner = tuple[int, ...]
Box = tuple[Corner, Corner]


@dataclass(frozen=True)
class Region:
    """Where a coarse pass says that structures are. allowed: 1 there, else 0. sure: (K,) bool."""

    allowed: Scores
    sure: Tensor

    def on(self, grid: WorkingGrid, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """Where each class may be on a part of a finer grid, (K, *shape) bool: everywhere for one that is not sure."""
        return (self.allowed.on(grid, start, shape) > 0.5) | ~self.sure[:, None, None, None]

    def extent(self, grid: WorkingGrid) -> Box:
        """What of a finer grid to look at: where structures are if the pass is sure of all, else all of it."""
        found = self.allowed.values.any(0)
        if not self.sure.all() or not found.any():
            return (0, 0, 0), grid.working_shape
        return scaled(self.allowed.grid, self.allowed.start, found, grid)


def widened(found: Tensor, by: int) -> Tensor:
    """Masks (K, x, y, z) with cubes of so many voxels in every direction around each of theirs, as numbers."""
    found = found[None].float()
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * by + 1, by
        found = F.max_pool3d(found, size, 1, padding)
    return found[0]


def scaled(grid: WorkingGrid, start: Corner, found: Tensor, other: WorkingGrid, margin: int = 0) -> Box:
    """Corners on another grid of what a mask (x, y, z) on a part of this one spans, and ``margin`` voxels more."""
    low, high = (np.array(start) + corner for corner in extent(found.numpy()))
    low, high = low - margin, high + margin
    ratio, middle, others = grid.working_mm / other.working_mm, np.array(grid.working_shape) / 2, other.working_shape
    low, high = ((corner - middle) * ratio + np.array(others) / 2 for corner in (low, high))
    low = np.floor(low).clip(0).astype(int).tolist()
    high = np.minimum(np.ceil(high), others).astype(int).tolist()
    return tuple(low), tuple(high)
