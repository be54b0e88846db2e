"""Registration: where in a reference's window each place of a query lies, told by the two images alone.

Nothing here is learned, so it works as well on what no training showed. Images are described by the self-similarity of
each place's neighbourhood (MIND-SSC: Heinrich et al., MICCAI 2013), which looks alike in any contrast. A smooth field
then follows by Gauss-Newton steps on small neighbourhoods (Lucas and Kanade, 1981), coarse to fine. The paper has none.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.model.blocks import exact, inside

CELL = 1.0  # voxels: the lattice on which neighbourhoods are compared
CHANNELS = 12
LEVELS = ((2, 8), (1, 8))  # cells of the descriptors' lattice a step's lattice is coarser by, Gauss-Newton steps
DAMPING = 0.05  # of the mean of the systems that are solved
LONGEST_STEP = 1.5  # cells
OUTSIDE = 0.1  # the squared difference that counts where the reference ends: about that of two unlike places
SHARPNESS = 10.0  # of the certainty
KEPT = (32, 32, 32)  # of T: descriptors and masks of a reference's window, at any shape


@dataclass(frozen=True)
class Described:
    """A window to register. descriptors (b, 12, …) and, 1 inside of the field of view, valid (b, 1, …), on a lattice
    that spans the window; edges (b, 3) in voxels; box (b, 2, 3): its corners in the field of view."""

    descriptors: Tensor
    valid: Tensor
    edges: Tensor
    box: Tensor

    def at(self, level: int) -> "Described":
        """On a lattice that is coarser by a whole number."""
        descriptors, valid = (F.avg_pool3d(part, level) for part in (self.descriptors, self.valid))
        return Described(descriptors, valid, self.edges, self.box)


def described(descriptors: Tensor, shape: tuple[int, ...], box: Tensor) -> Described:
    """shape: of the window in voxels."""
    return Described(
        descriptors,
        inside(box, tuple(descriptors.shape[2:])).expand(len(descriptors), -1, -1, -1, -1),
        box.new_tensor(shape).expand(len(descriptors), 3),
        box.expand(len(descriptors), 2, 3),
    )


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


@torch.no_grad()
@exact
def register(query: Described, reference: Described, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Places (b, 3, *shape) in the reference's window, in [-1, 1], of the query's; and certainty (b, 1, *shape).

    The field begins with the centres of the windows on one another or, where that fits better, with the same place
    in the fields of view.
    """
    apart = offset(reference, query)
    field = torch.cat([torch.zeros_like(apart), apart])[:, :, None, None, None]  # in voxels
    (coarse, steps), *finer = LEVELS
    field, difference, seen = _refine(_twice(query.at(coarse)), _twice(reference.at(coarse)), field, steps)
    first, second = (difference * seen + OUTSIDE * (1 - seen)).mean((1, 2, 3, 4)).chunk(2)
    field = torch.where((first <= second)[:, None, None, None, None], *field.chunk(2))
    for level, steps in finer:
        field, difference, seen = _refine(query.at(level), reference.at(level), field, steps)
    certainty = torch.exp(-SHARPNESS * _smooth(difference)) * seen
    field, certainty = (F.interpolate(part, size=shape, mode="trilinear") for part in (field, certainty))
    return (_voxels(query.edges, shape) + field) / (reference.edges[:, :, None, None, None] / 2), certainty


def _twice(it: Described) -> Described:
    return Described(*(torch.cat([part] * 2) for part in (it.descriptors, it.valid, it.edges, it.box)))


def offset(reference: Described, query: Described) -> Tensor:
    """Voxels (b, 3) from the centre of the reference's window to the place of the query's centre."""
    low, high = reference.box.unbind(1)
    return ((query.box.mean(1) - low) / (high - low) - 0.5) * reference.edges


def _voxels(edges: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Places (b, 3, *shape) on a lattice that spans a window, in voxels from its centre."""
    lines = [(torch.arange(n, device=edges.device) + 0.5) / n - 0.5 for n in shape]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")) * edges[:, :, None, None, None]


def _refine(query: Described, reference: Described, field: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton steps on the field (b, 3, …), in voxels. With it, both (b, 1, …): what is left of the squared
    difference, and 1 where both windows show something."""
    fixed, shape = query.descriptors, tuple(query.descriptors.shape[2:])
    places, half = _voxels(query.edges, shape), reference.edges[:, :, None, None, None] / 2
    cell = (query.edges / query.edges.new_tensor(shape))[:, :, None, None, None]
    field = F.interpolate(field, size=shape, mode="trilinear") / cell
    moving, slopes = torch.cat([reference.descriptors * reference.valid, reference.valid], 1), _slopes(fixed)

    def compared() -> tuple[Tensor, Tensor, Tensor]:
        sampled = sample(moving, (places + field * cell) / half)
        seen = sampled[:, -1:]
        moved = sampled[:, :-1] / seen.clamp_min(1e-3)
        return moved, moved - fixed, query.valid * (seen > 0.5)

    eye = torch.eye(3, device=fixed.device)
    for _ in range(steps):
        moved, left, weight = compared()
        slope = (_slopes(moved) + slopes) / 2
        along = slope.unbind(2)
        products = [(along[i] * along[j]).sum(1) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
        towards = [(along[i] * left).sum(1) for i in range(3)]
        system = _smooth(_smooth(torch.stack([*products, *towards], 1) * weight)).permute(0, 2, 3, 4, 1)
        matrix, vector = system[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3)), system[..., 6:, None]
        scale = matrix.diagonal(dim1=-2, dim2=-1).mean((1, 2, 3, 4))[:, None, None, None, None, None]
        step = torch.linalg.solve(matrix + (DAMPING * scale + 1e-8) * eye, vector)[..., 0].permute(0, 4, 1, 2, 3)
        field = _smooth(_smooth(field - step.clamp(-LONGEST_STEP, LONGEST_STEP)))
    _, left, weight = compared()
    return field * cell, (left**2).mean(1, keepdim=True), weight


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
