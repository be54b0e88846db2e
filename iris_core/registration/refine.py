"""The field by Gauss-Newton steps on small neighbourhoods (Lucas and Kanade, 1981), made smooth after each."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.describe import CHANNELS, Described, standing_out
from iris_core.registration.lattice import smoothed

DAMPING = 0.05  # of the mean of the systems that are solved
LONGEST_STEP = 1.5  # cells
ONE_CONTRAST = 2.0  # × the mean local correlation: the weight of grey values beside the descriptors, at most 1


@dataclass(frozen=True)
class Match:
    """Where a field (1, 3, …), in mm, leads: what is left of the descriptors' squared difference, and 1 where both
    show something; each (1, 1, …) on the query's lattice."""

    field: Tensor
    difference: Tensor
    seen: Tensor


def refine(query: Described, reference: Described, field: Tensor, steps: int) -> Match:
    """field (1, 3, *query.lattice.shape): displacements in mm to begin with."""
    places, cell = query.lattice.places(field), query.lattice.cell_mm
    here, there = query.valid(), reference.valid()
    fixed = torch.cat([query.values[:, :CHANNELS], standing_out(query, here)], 1)
    moving = torch.cat([reference.values[:, :CHANNELS], standing_out(reference, there)], 1)
    moving = torch.cat([moving * there, there], 1)

    def moved(field: Tensor) -> tuple[Tensor, Tensor]:
        sampled = reference.lattice.sampled(moving, places + field)
        share = sampled[:, -1:]
        return sampled[:, :-1] / share.clamp_min(1e-3), here * (share > 0.5)

    weight = _weights(fixed, *moved(field))
    fixed, moving = fixed * weight, moving * F.pad(weight, (0, 0) * 3 + (0, 1), value=1.0)
    slopes = _slopes(fixed)
    for _ in range(steps):
        found, seen = moved(field)
        field = field - cell * _step((_slopes(found) + slopes) / 2, found - fixed, seen)
        field = smoothed(smoothed(field))
    found, seen = moved(field)
    difference = ((found - fixed)[:, :CHANNELS] ** 2).mean(1, keepdim=True)
    return Match(field, difference, seen)


def _weights(fixed: Tensor, found: Tensor, seen: Tensor) -> Tensor:
    """Of each channel: grey values count as far as they correlate, which those of two modalities do not."""
    correlation = (fixed[:, CHANNELS:] * found[:, CHANNELS:] * seen).sum() / seen.sum().clamp_min(1)
    weight = torch.ones_like(fixed[:, :, :1, :1, :1])
    weight[:, CHANNELS:] = (ONE_CONTRAST * correlation).clamp(0, 1)
    return weight


def _step(slopes: Tensor, left: Tensor, seen: Tensor) -> Tensor:
    """Each place's own, in cells, from its neighbourhood: a symmetric system of three, solved by its adjugate."""
    along = slopes.unbind(2)
    products = [(along[i] * along[j]).sum(1) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    towards = [(along[i] * left).sum(1) for i in range(3)]
    xx, xy, xz, yy, yz, zz, x, y, z = smoothed(smoothed(torch.stack([*products, *towards], 1) * seen)).unbind(1)
    ridge = DAMPING * (xx + yy + zz).mean() / 3 + 1e-8
    xx, yy, zz = xx + ridge, yy + ridge, zz + ridge
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    solved = torch.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z], 1)
    return (solved / (xx * a + xy * b + xz * c)[:, None]).clamp(-LONGEST_STEP, LONGEST_STEP)


def _slopes(volume: Tensor) -> Tensor:
    """Central differences (b, c, 3, …) along each axis."""
    padded, inner = F.pad(volume, (1,) * 6, mode="replicate"), slice(1, -1)
    along = []
    for axis in range(3):
        higher, lower = ([inner] * 3 for _ in range(2))
        higher[axis], lower[axis] = slice(2, None), slice(None, -2)
        along.append((padded[(..., *higher)] - padded[(..., *lower)]) / 2)
    return torch.stack(along, 2)
