"""Lattices of cubes over a field of view, and sampling between them. Places are in mm from a frame's origin, which is
the middle of a scan's field of view (or of a window)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.geometry import apply_matrices, axis_matrix


@dataclass(frozen=True)
class Lattice:
    """shape: cells along x, y and z. cell_mm: their edge. centre_mm: the lattice's middle, x, y, z."""

    shape: tuple[int, ...]
    cell_mm: float
    centre_mm: tuple[float, ...] = (0.0, 0.0, 0.0)

    def places(self, device: torch.device | None = None) -> Tensor:
        """Middles of the cells in mm, (1, 3, *shape)."""
        lines = [
            (torch.arange(n, device=device) + 0.5 - n / 2) * self.cell_mm + middle
            for n, middle in zip(self.shape, self.centre_mm, strict=True)
        ]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]

    def unit(self, places: Tensor) -> Tensor:
        """Places in mm (b, 3, …) as fractions of the lattice, which spans [-1, 1]."""
        edges = places.new_tensor(self.shape)[:, None, None, None] * self.cell_mm / 2
        return (places - places.new_tensor(self.centre_mm)[:, None, None, None]) / edges

    def coarser(self, times: int) -> "Lattice":
        """With cells a whole number of times as large; it may end beyond this one, at the upper ends."""
        shape = tuple(-(-n // times) for n in self.shape)
        beyond = [m * times - n for m, n in zip(shape, self.shape, strict=True)]
        centre = tuple(c + b * self.cell_mm / 2 for c, b in zip(self.centre_mm, beyond, strict=True))
        return Lattice(shape, self.cell_mm * times, centre)

    def finer(self) -> "Lattice":
        """With cells half as large."""
        return Lattice(tuple(2 * n for n in self.shape), self.cell_mm / 2, self.centre_mm)

    def resample(self, volume: Tensor, spacing_mm: tuple[float, ...], outside: str = "edge") -> Tensor:
        """A volume or mask (…, x, y, z) whose middle is the frame's origin, on this lattice.

        outside: as of ``axis_matrix``.
        """
        matrices = []
        for n, spacing, m, middle in zip(volume.shape[-3:], spacing_mm, self.shape, self.centre_mm, strict=True):
            at_mm = (torch.arange(m, dtype=torch.float64) + 0.5 - m / 2) * self.cell_mm + middle
            matrices.append(axis_matrix(n, (at_mm / spacing + n / 2 - 0.5).numpy(), self.cell_mm / spacing, outside))
        return apply_matrices(volume, matrices)

    def sampled(self, values: Tensor, places: Tensor, padding: str = "zeros") -> Tensor:
        """Values (b, c, *shape) at places in mm (b, 3, …); beyond the lattice 0, or ('border') its nearest cell's."""
        grid = self.unit(places).flip(1).permute(0, 2, 3, 4, 1)
        return F.grid_sample(values, grid, padding_mode=padding, align_corners=False)


def spanning(low_mm: Tensor, high_mm: Tensor, cell_mm: float, fewest: int = 4) -> Lattice:
    """The lattice over a box (corners (3,)) in cells of ``cell_mm``, ``fewest`` or more along each axis."""
    shape = tuple(max(fewest, math.ceil(float(e) / cell_mm - 1e-3)) for e in high_mm - low_mm)
    return Lattice(shape, cell_mm, tuple(((low_mm + high_mm) / 2).tolist()))


def smoothed(volume: Tensor) -> Tensor:
    """Means of 3 × 3 × 3, one axis after the other: on a CPU several times faster than pooling."""
    for axis in (2, 3, 4):
        n = volume.shape[axis]
        ends = [volume.narrow(axis, i, 1) for i in (0, n - 1)]
        longer = torch.cat([ends[0], volume, ends[1]], axis)
        volume = (longer.narrow(axis, 0, n) + longer.narrow(axis, 1, n) + longer.narrow(axis, 2, n)) / 3
    return volume
