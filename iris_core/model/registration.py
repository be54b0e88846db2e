"""Registration: where in a reference's window each place of a query lies, told by the two images alone.

Nothing here is learned, so it works as well on what no training showed. Images are described by the self-similarity of
each place's neighbourhood (MIND-SSC: Heinrich et al., MICCAI 2013), which looks alike in any contrast. A smooth field
then follows by Gauss-Newton steps on small neighbourhoods (Lucas and Kanade, 1981), coarse to fine. The paper has none.
"""

from dataclasses import dataclass, fields
from itertools import combinations

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from iris_core.model.blocks import exact, inside

CELL = 1.0  # voxels: the lattice on which neighbourhoods are compared
CHANNELS = 12
LEVELS = ((2, 8), (1, 8))  # cells of the descriptors' lattice a step's lattice is coarser by, Gauss-Newton steps
AFFINE = ((4, 12), (2, 8))  # the same for an affine start
BETTER = 0.85  # share of the difference near the structures that an affine start may leave at most, to be taken
FEWEST = 3  # cells along an axis that tell an affine map
NEAR = 5  # cells: a structure with its surroundings
ELSEWHERE = 0.1  # weight of what is not near a structure, for an affine start
DAMPING = 0.05  # of the mean of the systems that are solved
RIDGE = 0.001  # the same for an affine map
LONGEST_STEP = 1.5  # cells
OUTSIDE = 0.1  # the squared difference that counts where the reference ends: about that of two unlike places
SHARPNESS = 10.0  # of the certainty
KEPT = (32, 32, 32)  # of T: descriptors and masks of a reference's window, at any shape


@dataclass(frozen=True)
class Described:
    """A window to register. descriptors (b, 12, …), valid (b, 1, …), 1 inside of the field of view, and near (b, 1, …),
    1 near a structure, on a lattice that spans the window; edges (b, 3) in voxels; box (b, 2, 3): its corners in the
    field of view."""

    descriptors: Tensor
    valid: Tensor
    near: Tensor
    edges: Tensor
    box: Tensor

    def at(self, level: int) -> "Described":
        """On a lattice that is coarser by a whole number."""
        parts = (F.avg_pool3d(part, level) for part in (self.descriptors, self.valid, self.near))
        return Described(*parts, self.edges, self.box)


def described(descriptors: Tensor, shape: tuple[int, ...], box: Tensor) -> Described:
    """shape: of the window in voxels. Where its structures are is not known: everywhere."""
    valid = inside(box, tuple(descriptors.shape[2:])).expand(len(descriptors), -1, -1, -1, -1)
    return Described(
        descriptors,
        valid,
        torch.ones_like(valid),
        box.new_tensor(shape).expand(len(descriptors), 3),
        box.expand(len(descriptors), 2, 3),
    )


def surroundings(masks: Tensor) -> Tensor:
    """1 near any class of masks (b, K, …), 0 elsewhere: (b, 1, …)."""
    return (F.max_pool3d(masks.float().amax(1, keepdim=True), NEAR, 1, NEAR // 2) > 0.25).float()


@torch.no_grad()
@exact
def describe(image: Tensor) -> Tensor:
    """Descriptors (b, 12, x', y', z') in [0, 1] of windows (b, 1, x, y, z), one for 2 × CELL voxels."""
    image = F.adaptive_avg_pool3d(image.float(), [4 * max(1, round(n / (4 * CELL))) for n in image.shape[2:]])
    padded, shape = F.pad(image, (2,) * 6, mode="replicate"), image.shape[2:]
    sides = (-2, 0, 0), (2, 0, 0), (0, -2, 0), (0, 2, 0), (0, 0, -2), (0, 0, 2)
    near = [padded[(..., *(slice(2 + o, 2 + o + n) for o, n in zip(side, shape, strict=True)))] for side in sides]
    pairs = [(a, b) for a, b in combinations(range(6), 2) if a // 2 != b // 2]  # of neighbours at a right angle
    distance = torch.cat([_smooth((near[a] - near[b]) ** 2) for a, b in pairs], 1)
    distance = distance - distance.amin(1, keepdim=True)
    noise = distance.mean(1, keepdim=True)
    overall = noise.mean((2, 3, 4), keepdim=True)
    noise = torch.maximum(torch.minimum(noise, 1e3 * overall), 1e-3 * overall).clamp_min(1e-12)
    return F.avg_pool3d(torch.exp(-distance / noise), 2)


@dataclass(frozen=True)
class _Match:
    """A field (b, 3, …) in voxels, and where it leads, each (b, 1, …): what is left of the squared difference, 1 where
    both windows show something, and 1 near the reference's structures."""

    field: Tensor
    difference: Tensor
    seen: Tensor
    near: Tensor

    def left(self, weight: Tensor) -> Tensor:
        """(b): the weighted mean of the difference; where nothing is seen it is OUTSIDE. Infinite without weight."""
        difference, total = self.difference * self.seen + OUTSIDE * (1 - self.seen), weight.sum((1, 2, 3, 4))
        mean = (difference * weight).sum((1, 2, 3, 4)) / total.clamp_min(1)
        return torch.where(total < 1, torch.inf, mean)

    def or_else(self, other: "_Match", better: Tensor) -> "_Match":
        """This one of the batch where ``better`` (b) says so, else the other."""
        which = better[:, None, None, None, None]
        return _Match(*(torch.where(which, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


@torch.no_grad()
@exact
def register(query: Described, reference: Described, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Places (b, 3, *shape) in the reference's window, in [-1, 1], of the query's; and certainty (b, 1, *shape).

    The field begins with the centres of the windows on one another or, where that fits better, with the same place
    in the fields of view; or with an affine map found from either, where that fits much better near the structures.
    """
    (coarse, steps), *finer = LEVELS
    place = offset(reference, query)[:, :, None, None, None]  # in voxels
    starts = 0 * place, place
    centred, placed = (_refine(query.at(coarse), reference.at(coarse), start, steps) for start in starts)
    everywhere = torch.ones_like(centred.near)
    found = centred.or_else(placed, centred.left(everywhere) <= placed.left(everywhere))
    (level, affine_steps), *last = AFFINE
    if min(query.descriptors.shape[2:]) >= FEWEST * level:
        centred, placed = (
            _refine(query.at(level), reference.at(level), start, affine_steps, _affine_step) for start in starts
        )
        mapped = centred.or_else(placed, centred.left(centred.near) <= placed.left(placed.near))
        for level, affine_steps in last:
            mapped = _refine(query.at(level), reference.at(level), mapped.field, affine_steps, _affine_step)
        mapped = _refine(query.at(coarse), reference.at(coarse), mapped.field, steps)
        found = mapped.or_else(found, mapped.left(mapped.near) < BETTER * found.left(found.near))
    for level, steps in finer:
        found = _refine(query.at(level), reference.at(level), found.field, steps)
    certainty = torch.exp(-SHARPNESS * _smooth(found.difference)) * found.seen
    field, certainty = (F.interpolate(part, size=shape, mode="trilinear") for part in (found.field, certainty))
    return (_voxels(query.edges, shape) + field) / (reference.edges[:, :, None, None, None] / 2), certainty


def offset(reference: Described, query: Described) -> Tensor:
    """Voxels (b, 3) from the centre of the reference's window to the place of the query's centre."""
    low, high = reference.box.unbind(1)
    return ((query.box.mean(1) - low) / (high - low) - 0.5) * reference.edges


def _voxels(edges: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Places (b, 3, *shape) on a lattice that spans a window, in voxels from its centre."""
    lines = [(torch.arange(n, device=edges.device) + 0.5) / n - 0.5 for n in shape]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")) * edges[:, :, None, None, None]


def _local_step(slopes: Tensor, left: Tensor, match: _Match, places: Tensor) -> Tensor:
    """Each place's own, from its neighbourhood (Lucas and Kanade)."""
    along = slopes.unbind(2)
    products = [(along[i] * along[j]).sum(1) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    towards = [(along[i] * left).sum(1) for i in range(3)]
    system = _smooth(_smooth(torch.stack([*products, *towards], 1) * match.seen)).permute(0, 2, 3, 4, 1)
    matrix, vector = system[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3)), system[..., 6:, None]
    scale = matrix.diagonal(dim1=-2, dim2=-1).mean((1, 2, 3, 4))[:, None, None, None, None, None]
    eye = torch.eye(3, device=left.device)
    return torch.linalg.solve(matrix + (DAMPING * scale + 1e-8) * eye, vector)[..., 0].permute(0, 4, 1, 2, 3)


def _affine_step(slopes: Tensor, left: Tensor, match: _Match, places: Tensor) -> Tensor:
    """One affine map of all places together, mostly from those near the structures."""
    weight = match.seen * (match.near + ELSEWHERE)
    x = torch.cat([places, torch.ones_like(places[:, :1])], 1)
    products = einsum(slopes * weight[:, None], slopes, "b c i x y z, b c k x y z -> b i k x y z")
    matrix = einsum(products, x, x, "b i k x y z, b j x y z, b l x y z -> b i j k l").flatten(3).flatten(1, 2)
    vector = einsum(slopes, left * weight, x, "b c i x y z, b c x y z, b j x y z -> b i j").flatten(1)
    scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    ridge = (RIDGE * scale + 1e-8) * torch.eye(12, device=left.device)
    return einsum(torch.linalg.solve(matrix + ridge, vector).unflatten(-1, (3, 4)), x, "b i j, b j x y z -> b i x y z")


def _refine(query: Described, reference: Described, field: Tensor, steps: int, step=_local_step) -> _Match:
    """Gauss-Newton steps on the field (b, 3, …), in voxels."""
    fixed, shape = query.descriptors, tuple(query.descriptors.shape[2:])
    places, half = _voxels(query.edges, shape), reference.edges[:, :, None, None, None] / 2
    cell = (query.edges / query.edges.new_tensor(shape))[:, :, None, None, None]
    field = F.interpolate(field, size=shape, mode="trilinear") / cell
    moving = torch.cat([reference.descriptors * reference.valid, reference.valid, reference.near], 1)
    slopes = _slopes(fixed)

    def compared() -> tuple[Tensor, Tensor, _Match]:
        sampled = sample(moving, (places + field * cell) / half)
        seen, near = sampled[:, -2:-1], sampled[:, -1:]
        moved = sampled[:, :-2] / seen.clamp_min(1e-3)
        left = moved - fixed
        return moved, left, _Match(field * cell, (left**2).mean(1, keepdim=True), query.valid * (seen > 0.5), near)

    for _ in range(steps):
        moved, left, match = compared()
        change = step((_slopes(moved) + slopes) / 2, left, match, places / half)
        field = field - change.clamp(-LONGEST_STEP, LONGEST_STEP)
        if step is _local_step:
            field = _smooth(_smooth(field))
    return compared()[-1]


def sample(volume: Tensor, places: Tensor) -> Tensor:
    """A volume (b, c, …) at places (b, 3, *shape) of its window, in [-1, 1]; zero outside."""
    return F.grid_sample(volume, places.flip(1).permute(0, 2, 3, 4, 1), padding_mode="zeros", align_corners=False)


def _smooth(volume: Tensor) -> Tensor:
    """Means of 3 × 3 × 3, one axis after the other: on a CPU several times faster than pooling."""
    for axis in (2, 3, 4):
        n = volume.shape[axis]
        ends = [volume.narrow(axis, i, 1) for i in (0, n - 1)]
        longer = torch.cat([ends[0], volume, ends[1]], axis)
        volume = (longer.narrow(axis, 0, n) + longer.narrow(axis, 1, n) + longer.narrow(axis, 2, n)) / 3
    return volume


def _slopes(volume: Tensor) -> Tensor:
    """Central differences (b, c, 3, …) along each axis."""
    padded, inner = F.pad(volume, (1,) * 6, mode="replicate"), slice(1, -1)
    along = []
    for axis in range(3):
        higher, lower = ([inner] * 3 for _ in range(2))
        higher[axis], lower[axis] = slice(2, None), slice(None, -2)
        along.append((padded[(..., *higher)] - padded[(..., *lower)]) / 2)
    return torch.stack(along, 2)
