"""Registration: which place of a reference each place of a query is, told by the two images alone.

Nothing here is learnt, so it works as well on what no training showed; no model is needed. The paper has none. A query
is registered to a reference once, whole scan to whole scan, coarse to fine, then finer around the structures.
"""

import math

import torch
from torch import Tensor

from iris_core.registration.carry import Carried, Field, Registered, carry_over
from iris_core.registration.describe import Described, Scan, describe
from iris_core.registration.lattice import Lattice, smoothed
from iris_core.registration.reference import NEAR_CELLS, Reference, cell_of, prepare, unpacked
from iris_core.registration.refine import Match, refine
from iris_core.registration.start import OUTSIDE, discrete_start, resized

__all__ = ["Carried", "Lattice", "Reference", "Registered", "Scan", "carry_over", "prepare", "register"]

DISCRETE = 3  # cells that the discrete start's lattice is coarser by
COARSEST, FIRST_STEPS = 4, 8  # the same of the first refinement, from every start; its Gauss-Newton steps
LEVELS = ((2, 6), (1, 4))  # the same of those that follow, from the start that fits best
NEAR_STEPS = 4
ELSEWHERE = 0.1  # weight of what is not near a structure where starts are compared
SHARPNESS = 10.0  # of the certainty
MOST_CELLS = 1.35  # of the edge of a query's cells: how much smaller than its own choice the reference's may be
ROOM = 2  # × NEAR_CELLS: the most around the structures of a query


@torch.no_grad()
def register(query: Scan, reference: Reference, start_mm: Tensor | None = None) -> Registered:
    """A query on a reference. start_mm (3,): where in the reference the query's middle may lie, beside its middle."""
    moving = unpacked(reference.scales[_scale(query, reference)])
    cell = moving.lattice.cell_mm
    fixed = describe(query, cell)
    lowest = fixed.at(DISCRETE)
    begun = discrete_start(lowest, moving.at(DISCRETE))
    starts = [torch.zeros_like(begun), begun]
    if start_mm is not None:
        starts.append(torch.zeros_like(begun) + start_mm.to(begun)[:, None, None, None])
    around = reference.scales[0].lattice, reference.around.float()
    coarse, there = fixed.at(COARSEST), moving.at(COARSEST)
    tried = [refine(coarse, there, resized(start, lowest, coarse), FIRST_STEPS) for start in starts]
    found, before = min(tried, key=lambda match: _left(coarse, match, *around)), coarse
    for times, steps in LEVELS:
        level = fixed.at(times)
        found = refine(level, moving.at(times), resized(found.field, before, level), steps)
        before = level
    fields = [_field(fixed, found)]
    if reference.near.lattice.cell_mm < 0.9 * cell and (box := _near(fixed, found, *around)) is not None:
        finer = max(reference.near.lattice.cell_mm, cell_of(*box, ROOM * NEAR_CELLS))
        close = describe(query, finer, *box)
        fields.append(
            _field(close, refine(close, unpacked(reference.near), resized(found.field, fixed, close), NEAR_STEPS))
        )
    return Registered(reference, tuple(fields))


def _scale(query: Scan, reference: Reference) -> int:
    """Which of the reference's scales suits a query: the finest whose cells are not too many for it."""
    wanted = cell_of(*query.view) / reference.scales[0].lattice.cell_mm
    return min(max(0, math.ceil(math.log2(wanted / MOST_CELLS))), len(reference.scales) - 1)


def _left(query: Described, match: Match, lattice: Lattice, around: Tensor) -> float:
    """Mean of what is left of the difference, mostly near the reference's structures."""
    difference = match.difference * match.seen + OUTSIDE * (1 - match.seen)
    near = lattice.sampled(around, query.lattice.places(around.device) + match.field)
    weight = (near + ELSEWHERE) * query.valid()
    return float((difference * weight).sum() / weight.sum().clamp_min(1e-6))


def _field(query: Described, match: Match) -> Field:
    certainty = torch.exp(-SHARPNESS * smoothed(match.difference)) * match.seen
    return Field(query.lattice, match.field, certainty)


def _near(query: Described, match: Match, lattice: Lattice, around: Tensor) -> tuple[Tensor, Tensor] | None:
    """Corners in mm of what of the query leads near the reference's structures; None where nothing does."""
    places = query.lattice.places(around.device)
    near = (lattice.sampled(around, places + match.field) * query.valid())[0, 0] > 0.25
    if not near.any():
        return None
    found, half = places[0][:, near].cpu(), query.lattice.cell_mm / 2
    low, high = query.view
    return torch.maximum(found.amin(1) - half, low), torch.minimum(found.amax(1) + half, high)
