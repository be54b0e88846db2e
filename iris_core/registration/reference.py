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
from iris_core.registration.labelled import Labelled, labelled

CELLS = 48**3  # of a scan
NEAR_CELLS = 56**3  # of what lies around its structures
SCALES = 4  # each twice as coarse as the one before
FINEST = 2.0  # voxels of the scan: the smallest cell of a whole scan
FINEST_NEAR = 1.0  # the same around the structures
MARGIN = 3  # cells of the whole scan around the structures
GREY = 4.0  # the largest grey value that is kept, normalised


@dataclass(frozen=True)
class Reference:
    """A scan with masks, ready to register queries to. ``prepare`` makes it.

    scales: descriptors of the whole scan, finest first; near: of what lies around the structures; both in bytes, since
    a pool holds hundreds. around (1, 1, …), bytes: 1 near a structure, on the finest scale's lattice. masks: the
    structures, voxel by voxel. present (K,), bool: which of the task's classes this reference has.
    """

    scales: tuple[Described, ...]
    near: Described
    around: Tensor
    masks: Labelled
    present: Tensor

    def pick(self, index: Sequence[int | None]) -> "Reference":
        """The task's classes in another order; None for one that this reference does not have."""
        present = torch.tensor([i is not None and bool(self.present[i]) for i in index], device=self.present.device)
        return replace(self, masks=self.masks.pick(index), present=present)

    def to(self, device: torch.device) -> "Reference":
        def moved(described: Described) -> Described:
            return replace(described, values=described.values.to(device))

        parts = {name: getattr(self, name).to(device) for name in ("around", "masks", "present")}
        return replace(self, scales=tuple(map(moved, self.scales)), near=moved(self.near), **parts)


def prepare(scan: Scan, masks: Sequence[Tensor], closer: bool = True) -> Reference:
    """A scan to register queries to, with a mask (x, y, z) of each of its K classes, bool or in [0, 1], not all empty.

    closer: whether to look closer around the structures; without it registration takes half the time.
    """
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
    near = packed(describe(scan, close, low, high)) if closer and close < 0.9 * cell else scales[0]
    present = torch.ones(len(masks), dtype=torch.bool)
    return Reference(scales, near, around, labelled(masks, scan.spacing_mm, low, high), present)


def cell_of(low_mm: Tensor, high_mm: Tensor, cells: int = CELLS) -> float:
    """Edge in mm of one of so many cubes that fill a box."""
    return float(((high_mm - low_mm).clamp_min(1e-6).prod() / cells) ** (1 / 3))


def packed(described: Described) -> Described:
    """With values of one byte each."""
    descriptors, grey = described.values.split([CHANNELS, 1], 1)
    grey = (grey.clamp(-GREY, GREY) + GREY) / (2 * GREY)
    values = (torch.cat([descriptors, grey], 1) * 255).round().to(torch.uint8)
    return replace(described, values=values)


def unpacked(described: Described) -> Described:
    descriptors, grey = (described.values.float() / 255).split([CHANNELS, 1], 1)
    return replace(described, values=torch.cat([descriptors, grey * (2 * GREY) - GREY], 1))
