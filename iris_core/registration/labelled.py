"""A reference's masks as small integers, and their mixture between voxels."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.lattice import Lattice, spanning

MOST = 2**22  # cells: a structure that spans 161³ voxels keeps them all
CELLS_AT_ONCE = 2**21  # weights, of places looked up at once
LIMITS = {torch.uint8: 2**8, torch.int16: 2**15, torch.int32: 2**31}


@dataclass(frozen=True)
class Labelled:
    """labels (x, y, z), on ``lattice``: which of ``sets`` a place belongs to. sets (n, K), bool: the classes there."""

    labels: Tensor
    lattice: Lattice
    sets: Tensor

    def at(self, places: Tensor) -> Tensor:
        """Places (1, 3, x, y, z) in mm → how much of each class is there, (1, K, x, y, z): trilinear, 0 beyond.

        Weights are added up label by label, so that more classes take hardly more time.
        """
        padded = F.pad(self.labels, (1,) * 6)  # the empty set lies around
        shape = places.new_tensor(padded.shape)[:, None]
        index = places[0].flatten(1) - places.new_tensor(self.lattice.centre_mm)[:, None]
        index = (index / self.lattice.cell_mm + (shape - 1) / 2).clamp_min(0).minimum(shape - 1.001)
        table, flat, (_, y, z) = self.sets.float().T.contiguous(), padded.flatten(), padded.shape
        found = places.new_empty(len(table), index.shape[1])
        slab = CELLS_AT_ONCE // len(self.sets)
        for first in range(0, index.shape[1], slab):
            part = index[:, first : first + slab]
            low = part.long()
            high = part - low
            corner = (low[0] * y + low[1]) * z + low[2]
            by_label = part.new_zeros(len(self.sets), part.shape[1])
            for i, j, k in itertools.product((0, 1), repeat=3):
                weight = _share(high[0], i) * _share(high[1], j) * _share(high[2], k)
                labels = flat[corner + (i * y + j) * z + k].long()
                by_label.scatter_add_(0, labels[None], weight[None])
            found[:, first : first + slab] = table @ by_label
        return found.reshape(1, len(found), *places.shape[2:])

    def pick(self, index: Sequence[int | None]) -> "Labelled":
        """The classes in another order; None for one that is nowhere."""
        lacking = torch.zeros_like(self.sets[:, :1])
        return replace(self, sets=torch.cat([lacking if i is None else self.sets[:, i : i + 1] for i in index], 1))

    def to(self, device: torch.device) -> "Labelled":
        return replace(self, labels=self.labels.to(device), sets=self.sets.to(device))


def labelled(masks: Sequence[Tensor], spacing_mm: tuple[float, ...], low_mm: Tensor, high_mm: Tensor) -> Labelled:
    """What of masks (x, y, z), bool or in [0, 1], lies in a box, in cubes of the finest spacing: where voxels are cubes
    the voxels themselves. In larger cubes where those are more than MOST."""
    lattice, k = _voxels(masks[0].shape, spacing_mm, low_mm, high_mm), len(masks)
    total, most = torch.zeros(lattice.shape), torch.full(lattice.shape, 1e-6)
    labels, sets = torch.zeros(lattice.shape, dtype=torch.int64), torch.cat([torch.zeros(1, k), torch.eye(k)]).bool()
    for i, mask in enumerate(masks):
        share = lattice.resample(mask, spacing_mm, "zero")
        labels[share > most] = i + 1
        most, total = torch.maximum(most, share), total + share
    if (total > 1.01).any():
        labels, sets = _overlapping(lattice.resample(mask, spacing_mm, "zero") > 0.5 for mask in masks)
    else:
        labels[total <= 0.5] = 0
    return Labelled(labels.to(kind_of(len(sets))), lattice, sets)


def kind_of(n: int) -> torch.dtype:
    """The smallest integers that number n sets."""
    return next(kind for kind, limit in LIMITS.items() if n <= limit)


def _overlapping(masks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Labels (x, y, z) and the sets (n, K) that they stand for, the empty set first."""
    labels, sets = torch.zeros(()), torch.zeros(1, 0, dtype=torch.bool)
    for mask in masks:
        used, labels = (2 * labels + mask).unique(return_inverse=True)
        bit = (used % 2 > 0)[:, None]
        sets = torch.cat([sets[(used // 2).long()], bit], 1)
    order = sets.any(1).sort(stable=True).indices
    if sets[order[0]].any():  # every place is of some class
        return labels + 1, torch.cat([torch.zeros_like(sets[:1]), sets])
    return order.argsort()[labels], sets[order]


def _share(high: Tensor, upper: int) -> Tensor:
    return high if upper else 1 - high


def _voxels(shape: Sequence[int], spacing_mm: tuple[float, ...], low_mm: Tensor, high_mm: Tensor) -> Lattice:
    """Cubes over a box that begins where voxels begin."""
    spacing = torch.tensor(spacing_mm)
    half = torch.tensor(shape) * spacing / 2
    low = ((low_mm + half) / spacing + 1e-3).floor() * spacing - half
    high = ((high_mm + half) / spacing - 1e-3).ceil() * spacing - half
    cell = max(min(spacing_mm), float(((high - low).prod() / MOST) ** (1 / 3)))
    while math.prod(spanning(low, high, cell, fewest=1).shape) > 1.2 * MOST:  # of a thin box, a cell across at least
        cell *= 1.1
    return spanning(low, high, cell, fewest=1)
