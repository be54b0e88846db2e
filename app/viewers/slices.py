"""Three orthogonal slices with their masks, as radiologists hang them: the patient's right is at the image's left."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.viewers.colours import colour

SIDE = 512  # pixels, edge of a picture
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # plane → the RAS+ axis it cuts
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # at the left, right, top and bottom edge
CROSSHAIR = 0.2  # opacity of the lines where the other two planes cut this one


def grey(image: np.ndarray) -> np.ndarray:
    """Intensities (x, y, z) → uint8, black to white from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(image, (0.5, 99.5))
    if low == high:
        low, high = image.min(), image.max()
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
    opacity: float,
) -> dict[str, np.ndarray]:
    """Plane → RGB picture (SIDE, SIDE, 3) uint8. All three have one scale, in pixels per mm.

    volume: (x, y, z) uint8 in RAS+ order. labels: of the same shape, 0 is background, i the i-th class.
    spacing_mm: voxel size along x, y, z. position: the voxel that the planes go through. opacity: of labels, 0 to 1.
    """
    extent_mm = np.multiply(volume.shape, spacing_mm)
    size = np.maximum(1, np.round(extent_mm * SIDE / extent_mm.max())).astype(int)
    return {plane: _picture(plane, volume, labels, size, position, opacity) for plane in PLANES}


def _picture(plane: str, volume, labels, size: np.ndarray, position, opacity: float) -> np.ndarray:
    """size: pixels along x, y, z."""
    axis = PLANES[plane]
    across, up = (a for a in range(3) if a != axis)
    shape = (int(size[across]), int(size[up]))
    scan = _hang(volume.take(position[axis], axis)).resize(shape, Image.Resampling.BILINEAR)
    mask = np.asarray(_hang(labels.take(position[axis], axis).astype(np.int32)).resize(shape, Image.Resampling.NEAREST))
    rgb = np.repeat(np.asarray(scan, np.float32)[..., None], 3, 2)
    table = np.array([(0, 0, 0), *(colour(i) for i in range(mask.max()))], np.float32)
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
