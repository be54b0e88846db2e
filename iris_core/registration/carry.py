"""The reference's masks at places of the query, where a field leads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_core.registration.lattice import Lattice
from iris_core.registration.shown import Shown


@dataclass(frozen=True)
class Field:
    """Displacements (1, 3, …) in mm from places of the query to places of the reference, and how certain they are,
    (1, 1, …) from 0 to 1, on a lattice over the query."""

    lattice: Lattice
    displacement: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class Registered:
    """A query on a reference. fields: of the whole query; then, where it is finer, around the structures."""

    reference: Shown
    fields: tuple[Field, ...]

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Places (1, 3, …) of the query in mm → those of the reference, and certainty (1, 1, …): 0 outside of it."""
        moved = None
        for field in self.fields:
            values = torch.cat([field.displacement, field.certainty], 1)
            sampled = field.lattice.sampled(values, places, "border")
            inside = (field.lattice.unit(places).abs() <= 1).all(1, keepdim=True)
            if moved is None:
                moved = torch.cat([sampled[:, :3], sampled[:, 3:] * inside], 1)
            else:
                moved = torch.where(inside, sampled, moved)
        return places + moved[:, :3], moved[:, 3:]


def carry_over(registered: Sequence[Registered], places: Tensor) -> Tensor:
    """Masks of K classes at places (1, 3, …) of the query in mm, and how certain they are: (1, K, 2, …).

    References are averaged, the better they fit the more; one says nothing of a class that it lacks.
    """
    total = weight = 0.0
    for one in registered:
        reference = one.reference
        there, certainty = one.at(places)
        carried = torch.zeros(1, len(reference.known), *places.shape[2:], device=places.device)
        if (reference.grid.unit(there).abs() <= 1).all(1).any():
            for k in reference.known.nonzero().flatten().tolist():
                carried[:, k] = reference.grid.sampled(reference.mask(k), there)[:, 0]
        share = (certainty**4 + 1e-4)[:, None] * reference.known[None, :, None, None, None, None]
        total = total + torch.stack([carried, certainty.expand_as(carried)], 2) * share
        weight = weight + share
    return total / weight.clamp_min(1e-6)
