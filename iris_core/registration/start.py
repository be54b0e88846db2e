"""Where the field may begin: each place's best match within a wide reach, made smooth (coupled convex optimisation:
Heinrich et al., MICCAI 2014; Siebert et al., ConvexAdam, TMI 2024)."""

import itertools

import torch
from torch import Tensor

from iris_core.registration.describe import CHANNELS, Described
from iris_core.registration.lattice import smoothed

REACH = 4  # cells
COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # rising weight of smoothness
SCALE = 0.02  # of the squared difference, which lies in [0, 1], to squared cells
OUTSIDE = 0.1  # the squared difference that counts where the reference ends: about that of two unlike places


def discrete_start(query: Described, reference: Described) -> Tensor:
    """Displacements (1, 3, *query.lattice.shape) in mm, from the frames' origins on one another."""
    shape, cell, n = query.lattice.shape, query.lattice.cell_mm, 2 * REACH + 1
    around = type(query.lattice)(tuple(m + 2 * REACH for m in shape), cell, query.lattice.centre_mm)
    valid = reference.valid()
    moving = torch.cat([reference.values[:, :CHANNELS] * valid, valid], 1)
    moving = reference.lattice.sampled(moving, around.places(moving.device))
    seen = moving[0, -1]
    moving, fixed = moving[0, :-1] / seen.clamp_min(1e-3), query.values[0, :CHANNELS]
    cost = fixed.new_empty(n**3, *shape)
    for i, corner in enumerate(itertools.product(range(n), repeat=3)):
        there = tuple(slice(c, c + m) for c, m in zip(corner, shape, strict=True))
        share = seen[there]
        cost[i] = ((moving[(slice(None), *there)] - fixed) ** 2).mean(0) * share + OUTSIDE * (1 - share)
    cost = smoothed((cost * query.valid()[0])[None])[0]
    line = torch.arange(-REACH, REACH + 1, device=fixed.device, dtype=fixed.dtype)
    steps = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).flatten(1)

    def smooth(best: Tensor) -> Tensor:
        return smoothed(smoothed(steps[:, best.flatten()].unflatten(1, shape)[None]))

    field = smooth(cost.argmin(0))
    squares = (steps**2).sum(0)[:, None, None, None]
    for weight in COUPLING:
        apart = squares - 2 * torch.tensordot(steps, field[0], dims=([0], [0]))  # |step - field|², but for a constant
        field = smooth((cost + weight * SCALE * apart).argmin(0))
    return field * cell


def resized(field: Tensor, before: Described, after: Described) -> Tensor:
    """A field (1, 3, …) on another lattice."""
    if before.lattice == after.lattice:
        return field
    return before.lattice.sampled(field, after.lattice.places(field.device), "border")
