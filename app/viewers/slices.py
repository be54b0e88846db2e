"""Three orthogonal slices with their masks, as radiologists hang them: the patient's right is at the image's left."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import grey_dilation, grey_erosion

from app.viewers.colours import colour
from iris_core.intensity import detect_scheme

SIDE = 512  # pixels, edge of a picture
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # plane → the RAS+ axis it cuts
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # at the left, right, top and bottom edge
CROSSHAIR = 0.2  # opacity of the lines where the other two planes cut this one
CT = (("soft tissue", 400, 40), ("lung", 1500, -600), ("bone", 1800, 400), ("brain", 80, 40), ("liver", 150, 60))
ENOUGH = 2_000_000  # voxels, for percentiles
PERCENTILES = (("0.5 to 99.5 %", 0.5), ("2 to 98 %", 2), ("10 to 90 %", 10), ("all values", 0))


@dataclass(frozen=True)
class Style:
    """How slices are drawn. window: lowest and highest intensity. opacity: of labels, 0 to 1. hidden: labels that are
    not drawn. colours: of the label i + 1."""

    window: tuple[float, float]
    opacity: float = 0.5
    outline: bool = False
    hidden: tuple[int, ...] = ()
    colours: Callable[[int], tuple[int, int, int]] = colour


def presets(image: np.ndarray) -> dict[str, tuple[float, float]]:
    """Name → lowest and highest intensity shown: Hounsfield windows for CT, percentiles for all else. The first is
    the one to begin with. Of a large image so many voxels tell as ENOUGH."""
    few = image.ravel("K")[:: max(1, image.size // ENOUGH)]
    if detect_scheme(few) == "ct":
        return {f"{name} ({width}/{level})": (level - width / 2, level + width / 2) for name, width, level in CT}
    found = {}
    for name, share in PERCENTILES:
        low, high = map(float, np.percentile(few, (share, 100 - share)))
        found[name] = (low, high) if share and low < high else (float(image.min()), float(image.max()))
    return found


def grey(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities → uint8, black to white from the window's low to its high end."""
    low, high = window
    return (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def best_position(labels: np.ndarray) -> tuple[int, int, int]:
    """The voxel (x, y, z) whose three planes hold the most labelled voxels each; the middle where none is labelled."""
    marked = labels != 0
    if not marked.any():
        return tuple(n // 2 for n in labels.shape)
    return tuple(int(marked.sum(tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def slices(
    volume: np.ndarray,
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    position: tuple[int, int, int],
    style: Style,
) -> dict[str, np.ndarray]:
    """Plane → RGB picture (SIDE, SIDE, 3) uint8. All three have one scale, in pixels per mm.

    volume: (x, y, z) in RAS+ order. labels: of the same shape, 0 is background, i the i-th class.
    spacing_mm: voxel size along x, y, z. position: the voxel that the planes go through.
    """
    size = _size(volume.shape, spacing_mm)
    return {plane: _picture(plane, volume, labels, size, position, style) for plane in PLANES}


def voxel_at(
    plane: str, pixel: tuple[float, float], shape: tuple[int, ...], spacing_mm, position: tuple[int, int, int]
) -> tuple[int, int, int]:
    """The voxel under a pixel (column, row) of a plane's picture; the nearest one for a pixel beside the scan."""
    axis = PLANES[plane]
    found = list(position)
    for at, other in zip(pixel, (a for a in range(3) if a != axis), strict=True):
        pixels, count = int(_size(shape, spacing_mm)[other]), shape[other]
        share = (at + 0.5 - (SIDE - pixels) // 2) / pixels
        found[other] = min(max(count - 1 - int(np.floor(share * count)), 0), count - 1)
    return tuple(found)


def same_place(position, middle, spacing_mm, other_middle, other_spacing_mm, other_shape) -> tuple[int, int, int]:
    """The voxel of another scan that lies as far, in mm, from its middle as ``position`` lies from ``middle``."""
    moved_mm = (np.array(position) - middle) * spacing_mm
    there = np.round(other_middle + moved_mm / other_spacing_mm).astype(int)
    return tuple(int(n) for n in there.clip(0, np.array(other_shape) - 1))


def _size(shape: tuple[int, ...], spacing_mm) -> np.ndarray:
    """Pixels along x, y, z."""
    extent_mm = np.multiply(shape, spacing_mm)
    return np.maximum(1, np.round(extent_mm * SIDE / extent_mm.max())).astype(int)


def _picture(plane: str, volume, labels, size: np.ndarray, position, style: Style) -> np.ndarray:
    """size: pixels along x, y, z."""
    axis = PLANES[plane]
    across, up = (a for a in range(3) if a != axis)
    shape = (int(size[across]), int(size[up]))
    cut = grey(volume.take(position[axis], axis).astype(np.float32), style.window)
    scan = _hang(cut).resize(shape, Image.Resampling.BILINEAR)
    mask = np.asarray(_hang(labels.take(position[axis], axis).astype(np.int32)).resize(shape, Image.Resampling.NEAREST))
    if style.hidden:
        mask = mask * ~np.isin(mask, style.hidden)
    if style.outline:
        mask = mask * (grey_dilation(mask, (5, 5)) != grey_erosion(mask, (5, 5)))
    rgb = np.repeat(np.asarray(scan, np.float32)[..., None], 3, 2)
    table = np.array([(0, 0, 0), *(style.colours(i) for i in range(mask.max()))], np.float32)
    opacity = min(1.0, 2 * style.opacity) if style.outline else style.opacity  # a thin line needs more
    rgb += opacity * (mask != 0)[..., None] * (table[mask] - rgb)
    for edge, other in ((1, across), (0, up)):
        line = np.moveaxis(rgb, edge, 0)[_pixel(position[other], volume.shape[other], int(size[other]))]
        line += CROSSHAIR * (255 - line)
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    top, left = (SIDE - shape[1]) // 2, (SIDE - shape[0]) // 2
    canvas[top : top + shape[1], left : left + shape[0]] = rgb.round()
    return _lettered(canvas, LETTERS[plane])


def _hang(cut: np.ndarray) -> Image.Image:
    """(across, up) in RAS+ order → rows from the top, columns from the patient's right (or front)."""
    return Image.fromarray(np.ascontiguousarray(cut.T[::-1, ::-1]))


def _pixel(index: int, count: int, pixels: int) -> int:
    """Where the middle of a voxel lies along a flipped axis."""
    return min(int((count - index - 0.5) / count * pixels), pixels - 1)


def _lettered(canvas: np.ndarray, letters: str) -> np.ndarray:
    picture = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(22)
    middle, far = SIDE / 2, SIDE - 8
    places = (((8, middle), "lm"), ((far, middle), "rm"), ((middle, 6), "mt"), ((middle, far), "mb"))
    for letter, (place, anchor) in zip(letters, places, strict=True):
        draw.text(place, letter, (255, 255, 255), font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)
