"""The reference's masks at places of the query, where a field leads."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.lattice import Lattice
from iris_core.registration.reference import Reference


@dataclass(frozen=True)
class Field:
    """Displacements (1, 3, …) in mm from places of the query to places of the reference, and how certain they are,
    (1, 1, …) from 0 to 1, on a lattice over the query."""

    lattice: Lattice
    displacement: Tensor
    certainty: Tensor

    def sampled(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement and certainty (1, 4, …) at places of the query in mm, beyond the lattice those of its nearest
        cell; and whether a place lies on the lattice, (1, 1, …)."""
        inside = (self.lattice.unit(places).abs() <= 1).all(1, keepdim=True)
        return self.lattice.sampled(torch.cat([self.displacement, self.certainty], 1), places, "border"), inside


@dataclass(frozen=True)
class Registered:
    """A query on a reference. fields: of the whole query; then, where it is finer, around the structures."""

    reference: Reference
    fields: tuple[Field, ...]

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Places (1, 3, …) of the query in mm → those of the reference, and certainty (1, 1, …): 0 outside of it."""
        whole, *closer = self.fields
        moved, inside = whole.sampled(places)
        moved = torch.cat([moved[:, :3], moved[:, 3:] * inside], 1)
        for field in closer:
            finer, inside = field.sampled(places)
            moved = torch.where(inside, finer, moved)
        return places + moved[:, :3], moved[:, 3:]


@dataclass(frozen=True)
class Carried:
    """The reference's masks of K classes on a lattice over the query, (1, K, x, y, z) in [0, 1]; and how certain they
    are, on a lattice that may be coarser, (1, K, …), or (1, 1, …) where that is the same for all classes."""

    masks: Tensor
    certainty: Tensor

    def to(self, device: torch.device) -> "Carried":
        return Carried(self.masks.to(device), self.certainty.to(device))


def carry_over(registered: Sequence[Registered], lattice: Lattice, step: int = 1) -> Carried:
    """Masks on a lattice over the query. step: fields are smooth, so they are looked up on a lattice coarser by so
    much, which must divide the shape, and that is where certainty is told.

    References are averaged, the better they fit the more; one says nothing of a class that it lacks.
    """
    device = registered[0].reference.present.device
    places, coarse = lattice.places(device), lattice.coarser(step).places(device)
    found = []
    for one in registered:
        there, certainty = one.at(coarse)
        found.append(Carried(one.reference.masks.at(places + _resized(there - coarse, step)), certainty))
    if len(found) == 1 and registered[0].reference.present.all():
        return found[0]
    present = [one.reference.present[None, :, None, None, None] for one in registered]
    shares = torch.stack([(f.certainty**4 + 1e-4) * k for f, k in zip(found, present, strict=True)])
    shares = shares / shares.sum(0).clamp_min(1e-6)
    masks = [_resized(share, step) * f.masks for share, f in zip(shares, found, strict=True)]
    certainties = [share * f.certainty for share, f in zip(shares, found, strict=True)]
    return Carried(functools.reduce(torch.add, masks), functools.reduce(torch.add, certainties))


def _resized(field: Tensor, times: int) -> Tensor:
    return F.interpolate(field, scale_factor=times, mode="trilinear") if times > 1 else field
