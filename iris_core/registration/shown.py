"""What is kept of a reference to register queries to it: descriptors and grey values of the whole scan at several
scales and, finer, of what lies around its structures; and their masks. A small picture of the scan, in bytes.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.describe import CHANNELS, Described, Scan, describe
from iris_core.registration.lattice import Lattice, spanning

CELLS = 48**3  # of a scan
NEAR_CELLS = 56**3  # of what lies around its structures
SCALES = 4  # each twice as coarse as the one before
FINEST = 2.0  # voxels of the scan: the smallest cell of a whole scan
FINEST_NEAR = 1.0  # the same around the structures
MARGIN = 3  # cells of the whole scan around the structures
GREY = 4.0  # the largest grey value that is kept, normalised
LIMITS = {torch.uint8: 2**8, torch.int16: 2**15, torch.int32: 2**31}


@dataclass(frozen=True)
class Shown:
    """scales: of the whole scan, finest first; near: of what lies around the structures; both ``packed``, since a pool
    holds hundreds. around (1, 1, …), bytes: 1 near a structure, on the finest scale's lattice. labels (x, y, z), on
    ``grid``: which of ``sets`` (n, K), bool, a place belongs to: the classes there. known (K,): which of T's classes
    this reference speaks of."""

    scales: tuple[Described, ...]
    near: Described
    around: Tensor
    labels: Tensor
    grid: Lattice
    sets: Tensor
    known: Tensor

    def mask(self, k: int) -> Tensor:
        """(1, 1, x, y, z) of one class, on ``grid``."""
        return self.sets[:, k].float()[self.labels.long()][None, None]

    def pick(self, index: Sequence[int | None]) -> "Shown":
        """The classes of T in another order; None for one that this reference does not speak of."""
        lacking = torch.zeros_like(self.sets[:, :1])
        columns = [lacking if i is None else self.sets[:, i : i + 1] for i in index]
        known = torch.tensor([i is not None and bool(self.known[i]) for i in index], device=self.known.device)
        return replace(self, sets=torch.cat(columns, 1), known=known)

    def to(self, device: torch.device) -> "Shown":
        def moved(described: Described) -> Described:
            return replace(described, values=described.values.to(device))

        parts = {name: getattr(self, name).to(device) for name in ("around", "labels", "sets", "known")}
        return replace(self, scales=tuple(map(moved, self.scales)), near=moved(self.near), **parts)


def show(scan: Scan, masks: Sequence[Tensor]) -> Shown:
    """A reference: its scan, and a mask (x, y, z) of each of its K classes, bool or in [0, 1], not all empty."""
    low, high = scan.view
    cell = max(cell_of(low, high), FINEST * min(scan.spacing_mm))
    scales = tuple(packed(describe(scan, cell * 2**i)) for i in range(SCALES))
    lattice = scales[0].lattice
    everything = functools.reduce(torch.maximum, masks)
    there = lattice.resample(everything, scan.spacing_mm, "zero")[None, None]
    around = (F.max_pool3d(there, 5, 1, 2) > 0.1).to(torch.uint8)
    if there.any():  # in a scan of a voxel or two no cell's middle may lie
        places = lattice.places()[0][:, there[0, 0] > 0]
        low = torch.maximum(places.amin(1) - MARGIN * cell, low)
        high = torch.minimum(places.amax(1) + MARGIN * cell, high)
    close = max(cell_of(low, high, NEAR_CELLS), FINEST_NEAR * min(scan.spacing_mm))
    near = packed(describe(scan, close, low, high)) if close < 0.9 * cell else scales[0]
    grid = spanning(low, high, close / 2)
    labels, sets = _labelled(grid, scan, masks)
    return Shown(scales, near, around, labels, grid, sets, torch.ones(len(masks), dtype=torch.bool))


def cell_of(low_mm: Tensor, high_mm: Tensor, cells: int = CELLS) -> float:
    """Edge in mm of one of so many cubes that fill a box."""
    return float(((high_mm - low_mm).clamp_min(1e-6).prod() / cells) ** (1 / 3))


def _labelled(grid: Lattice, scan: Scan, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Which set of classes each place of a lattice belongs to, small integers, and the sets (n, K)."""
    labels, sets = torch.zeros(grid.shape, dtype=torch.int64), torch.zeros(1, len(masks), dtype=torch.bool)
    inside = [grid.resample(mask, scan.spacing_mm, "zero") for mask in masks]
    total, most = sum(inside), torch.stack(inside).amax(0)
    overlapping = bool((total > 1.01).any())
    for k, share in enumerate(inside):
        found = share > 0.5 if overlapping else (share == most) & (total > 0.5)
        with_k = sets.clone()
        with_k[:, k] = True
        labels += found * len(sets)
        used, labels = labels.unique(return_inverse=True)
        sets = torch.cat([sets, with_k])[used]
        if used[0] != 0:  # the empty set stays the first
            labels, sets = labels + 1, torch.cat([torch.zeros_like(sets[:1]), sets])
    kind = next(kind for kind, limit in LIMITS.items() if len(sets) <= limit)
    return labels.to(kind), sets


def packed(described: Described) -> Described:
    """With values of one byte each."""
    descriptors, grey = described.values.split([CHANNELS, 1], 1)
    grey = (grey.clamp(-GREY, GREY) + GREY) / (2 * GREY)
    values = (torch.cat([descriptors, grey], 1) * 255).round().to(torch.uint8)
    return replace(described, values=values)


def unpacked(described: Described) -> Described:
    descriptors, grey = (described.values.float() / 255).split([CHANNELS, 1], 1)
    return replace(described, values=torch.cat([descriptors, grey * (2 * GREY) - GREY], 1))
