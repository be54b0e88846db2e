"""Synthetic episodes: tasks on images that are painted on label maps, or warped, recoloured or given lesions.

Ours, not the paper's. Painting after SynthSeg (Billot et al. 2023): every tissue gets a random grey value, so a model
cannot know an anatomy by its contrast and has to look at the reference. Tasks on regions of one unlabelled scan after
Ouyang et al. (2020). Reference and query are two deformations of one anatomy, or two subjects.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from iris_core.case import LabelClass
from iris_core.data.cache import FILLING
from iris_core.data.framing import draw_scale, draw_window, near
from iris_core.data.lesions import add_lesions, air, draw_looks
from iris_core.data.painting import Contrast, artefacts, blur, curved, noise_field, recolour, textured
from iris_core.data.warping import Anatomy, sample_window
from iris_core.geometry import WorkingGrid, extent
from iris_core.model.iris import IrisConfig

MAX_CLASSES = 8  # an episode; memory and time grow with it
OVERVIEW = 0.25  # share of episodes at the spacing that fits the reference's whole field of view, as locating needs
SUPERVOXEL_GRID = 2**19  # voxels: supervoxels are found on a coarser grid where a scan has more
SURROUNDED = 0.7  # share of painted anatomies whose background is cut into pieces, as what surrounds organs is
UNION, HALF = 0.25, 0.15  # share of classes that join several labels; of episodes that ask for one end of a structure
MORE = 0.85  # probability of a further class, until there is none or MAX_CLASSES are reached
CROPPED = 0.5  # share of fields of view that are cropped around the structures
TWO_LOOKS, RECOLOURED = 0.3, 0.4  # shares of episodes of lesions
SAME_CURVE = 0.7  # share of recoloured pairs with one curve of grey values
PARTS = 10_000  # labels from here on are pieces of the background: painted, rarely asked for


@dataclass(frozen=True)
class View:
    """One side of an episode: image (x, y, z), masks (K, x, y, z) in [0, 1], box (2, 3)."""

    image: np.ndarray
    masks: np.ndarray
    box: np.ndarray


def partition(rng: np.random.Generator, shape: tuple[int, ...], parts: int) -> np.ndarray:
    """Noise cut into ``parts`` pieces (0 …), two voxels fine: wavy regions that touch, (x, y, z)."""
    coarse = tuple(-(-n // 2) for n in shape)
    pieces = noise_field(rng, parts, int(rng.integers(3, 9)), coarse).argmax(0).to(torch.int32).numpy()
    return pieces.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in shape)]


def shapes(rng: np.random.Generator, edge: int) -> Anatomy:
    """Random structures in an edge³ field: a partition, with blobs in blobs, shells, tubes and specks laid over it."""
    shape = (edge, edge, edge)
    labels = 1 + PARTS + partition(rng, shape, int(rng.integers(1, 12)))
    axes = np.stack(np.meshgrid(*(np.linspace(-1, 1, edge, dtype=np.float32),) * 3, indexing="ij"))
    value = 2
    for _ in range(int(rng.integers(2, 9))):
        centre = rng.uniform(-0.6, 0.6, (3, 1, 1, 1)).astype(np.float32)
        stretch = rng.uniform(0.08, 0.45) * rng.uniform(0.6, 1.6, (3, 1, 1, 1)).astype(np.float32)
        wobble = 1 + rng.uniform(0, 0.3) * noise_field(rng, 1, int(rng.integers(3, 7)), shape)[0].numpy()
        kind = rng.choice(["blob", "shell", "tube", "specks"], p=[0.45, 0.2, 0.2, 0.15])
        if kind == "tube":
            along = axes - centre + 0.3 * noise_field(rng, 3, 3, shape).numpy()
            along[int(rng.integers(3))] = 0
            radius = np.sqrt((along**2).sum(0)) / (float(stretch.min()) * 0.6)
        else:
            radius = np.sqrt((((axes - centre) / stretch) ** 2).sum(0)) * wobble
        if kind == "specks":
            dust = noise_field(rng, 1, int(rng.integers(8, 20)), shape)[0].numpy()
            labels[(radius < 2) & (dust > 1.3)] = value
        else:
            labels[radius < 1] = value
        value += 1
        if kind in ("blob", "shell"):  # what lies inside
            labels[radius < (0.8 if kind == "shell" else rng.uniform(0.3, 0.8))] = value
            value += 1
    return Anatomy(labels.astype(np.int32), (1.0, 1.0, 1.0))


def supervoxels(rng: np.random.Generator, image: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Pieces of a scan that nobody drew (0 …): voxels nearest to random ones in place and grey value together."""
    pieces = int(np.exp(rng.uniform(*np.log((15, 150)))))
    steps = np.ones(3, int)  # made on every other voxel of the finest axis, until it is quick
    while np.prod(-(-np.array(image.shape) // steps)) > SUPERVOXEL_GRID:
        steps[np.argmin(steps * spacing_mm)] *= 2
    coarse = image[tuple(slice(None, None, s) for s in steps)]
    size = (np.prod(np.array(image.shape) * spacing_mm) / pieces) ** (1 / 3)  # mm
    lines = [np.arange(n) * s * mm / size for n, s, mm in zip(coarse.shape, steps, spacing_mm, strict=True)]
    grey = blur(torch.from_numpy(np.ascontiguousarray(coarse)), (0.7, 0.7, 0.7)) * rng.uniform(0.5, 3)
    place = torch.stack([*torch.meshgrid(*(torch.from_numpy(v).float() for v in lines), indexing="ij"), grey], -1)
    points = place.reshape(-1, 4)
    seeds = points[torch.from_numpy(rng.choice(len(points), min(pieces, len(points)), replace=False))]
    nearest = torch.cat([torch.cdist(part, seeds).argmin(1) for part in points.split(2**16)])
    labels = nearest.reshape(coarse.shape).to(torch.int32).numpy()
    for axis, s in enumerate(steps):
        labels = labels.repeat(s, axis)
    return labels[tuple(slice(n) for n in image.shape)]


def with_background(rng: np.random.Generator, anatomy: Anatomy) -> Anatomy:
    """The unlabelled surroundings, cut into pieces that will get contrasts of their own."""
    pieces = partition(rng, anatomy.labels.shape, int(rng.integers(2, 16)))
    return replace(anatomy, labels=np.where(anatomy.labels == 1, 1 + PARTS + pieces, anatomy.labels).astype(np.int32))


def halved(anatomies: list[Anatomy], value: int, axis: int, new: int) -> list[Anatomy]:
    """Label ``value`` split at its middle along an axis; the upper half becomes ``new``, in every anatomy alike."""
    result = []
    for anatomy in anatomies:
        mask = anatomy.labels == value
        where = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        if len(where) > 1:
            middle = (where[0] + where[-1] + 1) // 2
            mask[tuple(slice(middle) if a == axis else slice(None) for a in range(3))] = False
        else:
            mask[:] = False
        result.append(replace(anatomy, labels=np.where(mask, new, anatomy.labels).astype(np.int32)))
    return result


def synthetic_episode(
    rng: np.random.Generator, first: Anatomy, second: Anatomy, config: IrisConfig
) -> tuple[View, View] | None:
    """Reference and query of a synthetic task on two anatomies, which may be one. None if nothing was to be seen.

    Where scans have no labels, lesions are painted into them and asked for.
    """
    two = second is not first
    if first.image is None and rng.random() < SURROUNDED:
        first = with_background(rng, first)
        second = with_background(rng, second) if two else first
    values = np.unique(first.labels).tolist()
    offered = [v for v in values if 1 < v < PARTS] or [v for v in values if PARTS < v < FILLING]
    if not offered:
        return None if first.image is None else _lesion_episode(rng, first, second, config)
    classes = [LabelClass(str(v), v, (v,)) for v in offered]
    anchor, overview = classes[rng.integers(len(classes))], rng.random() < OVERVIEW
    tissue = np.union1d(values, np.unique(second.labels) if two else values)
    tissue = np.append(tissue, tissue[-1] + 1)
    if rng.random() < HALF:
        first, *rest = halved([first, second] if two else [first], anchor.value, int(rng.integers(3)), int(tissue[-1]))
        second = rest[0] if two else first
    chosen = [anchor, *_further(rng, classes if overview else near(first.labels, anchor, classes), anchor)]
    if rng.random() < CROPPED:
        first, second = (around_classes(rng, anatomy, chosen) for anatomy in (first, second))
    spacing, edge = draw_scale(rng, first.labels, first.spacing_mm, chosen, config, overview)
    strength = rng.uniform(0.2, 0.8) if two else rng.uniform(0.3, 1.2)
    members = np.stack([np.isin(tissue, c.members) for c in chosen], 1)
    painted = first.image is None
    greys = _contrasts(rng, tissue) if painted else _curves(rng)
    views = []
    for anatomy, grey, query in zip((first, second), greys, (False, True), strict=True):
        rows = np.hstack([grey.rows(), members]) if painted else members
        mask = anchor.mask(anatomy.labels)
        grid = WorkingGrid(mask.shape, anatomy.spacing_mm, spacing)
        window = draw_window(rng, grid, mask, edge, config, query)
        channels, outside = sample_window(rng, anatomy, window, strength, tissue, rows)
        shown, masks = channels.split([len(channels) - len(chosen), len(chosen)])
        image = artefacts(rng, textured(rng, *shown) if painted else curved(shown[0], *grey), outside)
        views.append(View(image.numpy(), masks.masked_fill(outside, 0).numpy(), window.box))
    kept = views[0].masks.sum((1, 2, 3)) >= 1  # voxel, all fractions together
    return tuple(replace(view, masks=view.masks[kept]) for view in views) if kept.any() else None


def _lesion_episode(
    rng: np.random.Generator, first: Anatomy, second: Anatomy, config: IrisConfig
) -> tuple[View, View] | None:
    """Lesions of the same looks in two scans, at places of their own. None if one that is asked for found no place."""
    spot = LabelClass("spot", 2, (2,))  # as large as a lesion: says how closely to look, and where
    darkest = [air(rng, anatomy.image) for anatomy in (first, second)]
    first, second = (_with_spot(rng, a, grey) for a, grey in zip((first, second), darkest, strict=True))
    spacing, edge = draw_scale(rng, first.labels, first.spacing_mm, [spot], config, rng.random() < OVERVIEW)
    looks = draw_looks(rng, edge)
    asked = 1 + int(len(looks) > 1 and rng.random() < TWO_LOOKS)  # the others distract
    curves = _curves(rng) if rng.random() < RECOLOURED else [None, None]
    views = []
    for anatomy, least, curve, query in zip((first, second), darkest, curves, (False, True), strict=True):
        mask = spot.mask(anatomy.labels)
        window = draw_window(rng, WorkingGrid(mask.shape, anatomy.spacing_mm, spacing), mask, edge, config, query)
        (image,), outside = sample_window(rng, anatomy, window, rng.uniform(0, 1), np.array([1, 2]), np.zeros((2, 0)))
        tissue = (image > least) & ~outside
        image, masks = add_lesions(rng, curved(image, *curve) if curve else image, tissue, looks)
        views.append(View(artefacts(rng, image, outside).numpy(), masks[:asked].numpy(), window.box))
    seen = [view.masks.sum((1, 2, 3)) >= 1 for view in views]
    return tuple(views) if np.all(seen) else None


def _with_spot(rng: np.random.Generator, anatomy: Anatomy, least: float) -> Anatomy:
    """Label 2 in a ball around a random voxel that is brighter than ``least``, 1 elsewhere."""
    size = np.array(anatomy.labels.shape) * anatomy.spacing_mm
    smallest = 2 * min(anatomy.spacing_mm)
    radius = np.exp(rng.uniform(*np.log((smallest, max(smallest, max(size) / 6)))))
    tried = rng.integers(anatomy.labels.shape, size=(100, 3))
    middle = next((place for place in tried if anatomy.image[tuple(place)] > least), tried[0])
    lines = [(np.arange(n) - m) * s for n, m, s in zip(anatomy.labels.shape, middle, anatomy.spacing_mm, strict=True)]
    x, y, z = np.ix_(*(line**2 for line in lines))
    return replace(anatomy, labels=1 + (x + y + z <= radius**2).astype(np.int32))


def _further(rng: np.random.Generator, around: list[LabelClass], anchor: LabelClass) -> Iterator[LabelClass]:
    """Classes asked for beside the anchor; some are unions."""
    others = [c for c in around if c.value != anchor.value]
    others = [others[i] for i in rng.permutation(len(others))]
    for _ in range(MAX_CLASSES - 1):
        if not others or rng.random() > MORE:
            return
        joined = others[: 1 + (rng.random() < UNION) * int(rng.integers(1, 4))]
        others = others[len(joined) :]
        yield LabelClass(joined[0].name, joined[0].value, tuple(c.value for c in joined))


def _contrasts(rng: np.random.Generator, tissue: np.ndarray) -> list[Contrast]:
    contrast = Contrast.draw(rng, tissue)
    return [contrast, contrast.other(rng)]


def _curves(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    curve = recolour(rng)
    return [curve, curve if rng.random() < SAME_CURVE else recolour(rng)]


def around_classes(rng: np.random.Generator, anatomy: Anatomy, classes: list[LabelClass]) -> Anatomy:
    """Cropped around structures, with random margins up to about their size."""
    members = np.array([v for c in classes for v in c.members])
    mask = np.isin(anatomy.labels, members)
    if not mask.any():
        return anatomy
    low, high = extent(mask)
    size = high - low
    low = np.maximum(low - np.ceil(size * rng.uniform(0.05, 1.2, 3) + 2), 0)
    high = np.minimum(high + np.ceil(size * rng.uniform(0.05, 1.2, 3) + 2), mask.shape)
    return anatomy.cropped(low, high)
