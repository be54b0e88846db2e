"""Lesions painted into scans: what has to be found by its look, since it may lie anywhere. Ours.

A look is what the lesions of one class have in common: how bright they are against the tissue that they lie in, how
they end, whether they have a core. Each one is a blob or a tube of its own outline, at a place of its own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iris_core.data.painting import blur, noise_field, octaves
from iris_core.data.warping import rotation

VISIBLE, STRONG = 1.2, 3.0  # limits of a shift of grey value; two looks are at least VISIBLE apart
SMALLEST, LARGEST = 3.0, 1 / 3  # diameter of a lesion: voxels, and as a share of the edge of the window's tissue
LOOKS = 4  # at most, in a window
LESIONS = 8  # at most, of a look
LAYERED = 0.4  # share of looks with a core of another grey value, which leaves a rim
TUBES = 0.2  # share of looks that are long
AIR = (0.08, 0.3)  # tissue is what is brighter than such a share of a scan's range of grey values
RANGE = (0.02, 0.98)  # of grey values: quantiles
TRIES = 50  # places tried for a lesion


@dataclass(frozen=True)
class Look:
    """What lesions of one class have in common. Grey values in standard deviations of the window's tissue."""

    shift: float  # of their mean, against that of the tissue around
    core_shift: float  # the same, of the core
    core: float  # share of the radius that is core; 0: none
    through: float  # share of the tissue's pattern that shows through
    texture: float  # deviation of a pattern of their own
    edge: float  # voxels over which they blend into the tissue
    ragged: float  # how far the outline leaves a smooth one, as a share of the radius
    diameter: float  # voxels, of a typical one
    length: float  # of the axis, in radii: 0 for a blob
    further: float  # probability that a window has another one

    @classmethod
    def draw(cls, rng: np.random.Generator, window: int) -> "Look":
        """window: its edge in voxels."""
        shift = rng.uniform(VISIBLE, STRONG) * rng.choice([-1, 1])
        tube = rng.random() < TUBES
        largest = max(window * LARGEST / (3 if tube else 1), SMALLEST)
        diameter = np.exp(rng.uniform(*np.log((SMALLEST, largest))))
        return cls(
            shift=shift,
            core_shift=rng.uniform(-STRONG, STRONG),
            core=rng.uniform(0.4, 0.75) if rng.random() < LAYERED else 0.0,
            through=rng.uniform(0, 1),
            texture=rng.uniform(0, 0.3) * abs(shift),
            edge=rng.uniform(1, np.clip(diameter / 3, 1, 3)),
            ragged=rng.uniform(0, 0.4),
            diameter=diameter,
            length=rng.uniform(5, 15) if tube else rng.uniform(0, 1),
            further=rng.uniform(0, 1 - diameter / (window * LARGEST + 1)),  # small ones come in numbers
        )


def draw_looks(rng: np.random.Generator, window: int) -> list[Look]:
    """One or a few looks that can be told apart by their grey value."""
    looks = [Look.draw(rng, window)]
    for _ in range(int(rng.integers(LOOKS))):
        look = Look.draw(rng, window)
        if all(abs(look.shift - other.shift) > VISIBLE for other in looks):
            looks.append(look)
    return looks


def air(rng: np.random.Generator, image: np.ndarray) -> float:
    """The grey value below which there is no tissue, in a whole scan; to some rngs lungs are tissue, to others not."""
    low, high = np.quantile(image.ravel()[:: max(1, image.size // 20_000)], RANGE)
    return float(low + rng.uniform(*AIR) * (high - low))


def add_lesions(rng: np.random.Generator, image: Tensor, tissue: Tensor, looks: list[Look]) -> tuple[Tensor, Tensor]:
    """A window (x, y, z) with lesions of every look, and their masks (looks, x, y, z) in [0, 1], which do not overlap.

    tissue (x, y, z) bool: where they may lie. The mask of a look for which no place was found is empty.
    """
    image, masks = image.clone(), torch.zeros(len(looks), *image.shape)
    body = ((blur(tissue.float(), (2.0, 2.0, 2.0)) - 0.3) / 0.4).clamp_(0, 1)  # lesions end where air begins
    places = ((body > 0.9) & tissue).nonzero().numpy()
    if len(places) < 2:
        return image, masks
    spread, largest = float(image[tissue].std()), LARGEST * int(tissue.sum()) ** (1 / 3)
    low, high = np.quantile(image[tissue].numpy()[::7], RANGE)
    margin = 0.3 * (high - low)

    def can_lie(place: tuple[int, ...], look: Look) -> bool:
        """Whether nothing lies there yet and the grey value stays within the scan's."""
        grey = float(image[place]) + look.shift * spread
        return low - margin < grey < high + margin and not masks[(slice(None), *place)].any()

    for k in sorted(range(len(looks)), key=lambda k: -looks[k].diameter):  # the small ones last, on what is left
        look = looks[k]
        for _ in range(min(int(rng.geometric(1 - look.further)), LESIONS)):
            tried = (tuple(place) for place in places[rng.integers(len(places), size=TRIES)].tolist())
            place = next((place for place in tried if can_lie(place, look)), None)
            if place is None:
                break
            radius = max(SMALLEST, min(look.diameter * float(np.exp(rng.normal(0, 0.3))), largest)) / 2
            box, depth = _outlined(rng, look, radius, place, tuple(image.shape))
            others = torch.cat([masks[:k], masks[k + 1 :]])[(slice(None), *box)].sum(0)
            share = body[box] * (1 - others)
            masks[k][box] = torch.maximum(masks[k][box], (0.5 + depth).clamp(0, 1) * share)
            inside = (0.5 + depth / look.edge).clamp(0, 1) * share
            around = image[box][(inside == 0) & tissue[box] & (others == 0)]
            if len(around) < 20:
                around = image[tissue]
            unit = max(spread, VISIBLE / abs(look.shift) * float(around.std()))
            pattern = image[box] - (image[box] * inside).sum() / inside.sum().clamp_min(1e-6)
            grey = around.mean() + look.through * pattern + unit * _shifts(rng, look, radius, depth)
            image[box] = torch.lerp(image[box], grey, inside)
    return image, masks


def _outlined(
    rng: np.random.Generator, look: Look, radius: float, place: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], Tensor]:
    """The part of a window that a lesion may reach, and how deep each voxel lies in it: in voxels, < 0 outside."""
    half = look.length * radius / 2  # of the axis
    reach = int(2 * radius + 1.25 * half + look.edge) + 3  # the limits of stretch and outline below
    box = tuple(slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(place, shape, strict=True))
    lines = [torch.arange(s.start, s.stop, dtype=torch.float32) - c for s, c in zip(box, place, strict=True)]
    offset = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    size = tuple(offset.shape[1:])
    turn = np.diag(rng.uniform(0.8, 1.25, 3)) @ rotation(rng, np.pi)
    along, *across = torch.tensordot(torch.from_numpy(turn.astype(np.float32)), offset, dims=1)
    if half > radius:  # a tube bends
        across = [a + 0.4 * half * bend for a, bend in zip(across, noise_field(rng, 2, 3, size), strict=True)]
    along = (along.abs() - half).clamp_min(0)
    distance = (along**2 + across[0] ** 2 + across[1] ** 2).sqrt()
    return box, radius - distance * (1 + look.ragged * octaves(rng, size)).clamp(0.65, 1.5)


def _shifts(rng: np.random.Generator, look: Look, radius: float, depth: Tensor) -> Tensor:
    """Grey values within a lesion, against the tissue around it."""
    shift = look.shift + look.texture * octaves(rng, tuple(depth.shape))
    if look.core:
        core = (0.5 + (depth - (1 - look.core) * radius) / look.edge).clamp(0, 1)
        shift += core * (look.core_shift - look.shift)
    return shift
