"""What a visitor drew: checked like any other file, kept on the scan's own grid, helped where few slices were drawn."""

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

from app.results import Result, Scan, mapped, scores_of, volumes_of
from app.viewers.colours import colour
from iris_core.case import InputError
from iris_core.geometry import Orientation
from nnunet_adapters.folder import output_name
from nnunet_adapters.headers import check_header
from nnunet_adapters.images import read_scan, stem, write_mask
from nnunet_adapters.masks.mask import Structure

MOST, LONGEST = 255, 100  # structures of a drawing, characters of a name
SMOOTH = 1.0  # voxels, of the Gaussian that smooths a structure. Ours


def read_drawing(path: Path, shape: tuple[int, ...], structures: int) -> np.ndarray:
    """Labels (x, y, z) uint8 in RAS+ order, 1 for the first of ``structures``. Raises InputError for anything else."""
    check_header(path)
    try:
        volume = nibabel.load(path)
        dtype, found = volume.get_data_dtype(), volume.shape
        if found != tuple(shape) or dtype != np.uint8:
            raise InputError(
                f"the drawing must be {tuple(shape)} voxels of uint8, got {found} of {dtype}; choose the scan again"
            )
        labels = np.asarray(volume.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the drawing cannot be read ({error}); draw a stroke, and it is saved again") from error
    if labels.dtype != np.uint8 or labels.max(initial=0) > structures:
        raise InputError(f"the drawing must hold {structures} structures, got {labels.max(initial=0)}; add them first")
    return labels


def draw(result: Result, number: int, labels: np.ndarray, names: tuple[str, ...], folder: Path) -> tuple[Result, Path]:
    """The result with other labels for one of its scans; and their mask, on the scan's own grid, in ``folder``.

    labels: (x, y, z) uint8 in RAS+ order, i is the i-th of ``names``: the result's, perhaps renamed, and new ones.
    Raises InputError for names that cannot be.
    """
    former, classes = tuple(result.classes), _numbered(names, tuple(result.classes.values()))
    scan, names = result.scans[number], tuple(classes)
    structures = [Structure(value, name, colour(i)) for i, (name, value) in enumerate(classes.items())]
    values = np.array([0, *classes.values()], np.int32)
    drawn = Orientation.of(read_scan(scan.source).affine).invert(values[labels])
    name = output_name(scan.source)
    mask = folder / name.replace(stem(Path(name)), f"{stem(Path(name))}_mask", 1)
    for file in (mask,) if scan.reference else (mask, scan.mask):  # what is taken away is what is seen
        write_mask(drawn, scan.source, file, structures)
    files = [scan.stem.with_name(f"{scan.stem.name}-drawn-{scan.drawn + i}.npy") for i in (1, 0)]
    changed = replace(
        scan,
        labels=mapped(labels, files[0]),
        volumes_ml=volumes_of(labels, names, scan.affine),
        scores={} if scan.truth is None else scores_of(labels, scan.truth, names, scan.spacing_mm),
        confidence={},
        mask=mask if scan.reference else scan.mask,
        corrected=not scan.reference,
        layers=(),
        task=None,
        drawn=scan.drawn + 1,
    )
    files[1].unlink(missing_ok=True)  # who reads it still has it
    called = dict(zip(former, names, strict=False))
    scans = [changed if i == number else _renamed(other, called) for i, other in enumerate(result.scans)]
    result = result if scan.reference else result.corrected(number, changed)
    return replace(result, classes=classes, scans=tuple(scans)), mask


def _renamed(scan: Scan, called: dict[str, str]) -> Scan:
    """A scan whose structures have other names. called: former → new name."""
    by_name = ("volumes_ml", "confidence", "scores", "notes")
    return replace(
        scan, **{part: {called[name]: value for name, value in getattr(scan, part).items()} for part in by_name}
    )


def _numbered(names: tuple[str, ...], values: tuple[int, ...]) -> dict[str, int]:
    """Name → label value: the known values for the first names, then the next that are free."""
    named = {}
    for i, name in enumerate(names):
        called = " ".join(name.split())
        if not called or called in named or "=" in called or len(called) > LONGEST:
            raise InputError(
                f"A structure needs a name of its own, up to {LONGEST} characters without '=', got {name[:LONGEST]!r}"
            )
        named[called] = values[i] if i < len(values) else max([0, *named.values()]) + 1
    if not len(values) <= len(named) <= MOST:
        raise InputError(f"A drawing may have {len(values)} to {MOST} structures, got {len(named)}")
    return named


def interpolate(labels: np.ndarray, structure: int, axis: int | None = None) -> np.ndarray:
    """Fill the slices between those in which a structure is drawn, by the mean of the distances to its outlines in the
    two nearest, weighed by how near each is (shape-based interpolation, Raya and Udupa 1990); both are moved to where
    its middle is by then, since a structure that runs aslant would vanish.

    axis: across the drawn slices; by default the one along which they are fewest. Other structures stay as they are.
    Raises InputError where nothing lies between two drawn slices.
    """
    mask = labels == structure
    drawn = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != other))) for other in range(3)]
    axis = min(range(3), key=lambda a: len(drawn[a])) if axis is None else axis
    slices, filled = np.moveaxis(mask, axis, 0), np.moveaxis(labels.copy(), axis, 0)
    gaps = [(first, last) for first, last in zip(drawn[axis], drawn[axis][1:]) if last - first > 1]  # noqa: B905
    if not gaps:
        raise InputError("Draw the structure in two slices or more, with undrawn slices between them")
    inside = {i: _depth(slices[i]) for gap in gaps for i in gap}
    middle = {i: np.argwhere(slices[i]).mean(0) for i in inside}
    for first, last in gaps:
        for between in range(first + 1, last):
            share = (between - first) / (last - first)
            way = middle[last] - middle[first]
            moved = shift(inside[first], share * way), shift(inside[last], (share - 1) * way)
            shape = (1 - share) * moved[0] + share * moved[1] > 0
            filled[between][shape & (filled[between] == 0)] = structure
    return np.moveaxis(filled, 0, axis)


def smooth(labels: np.ndarray, structure: int) -> np.ndarray:
    """Take the steps off a structure, in 3D; it does not grow over others."""
    box = find_objects((labels == structure).astype(np.uint8))
    if not box:
        raise InputError("Draw the structure first; there is nothing to smooth yet")
    margin = int(4 * SMOOTH)
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box[0])
    smoothed, part = labels.copy(), labels[box]
    mask = part == structure
    grown = gaussian_filter(mask.astype(np.float32), SMOOTH, mode="nearest") > 0.5
    smoothed[box] = np.where(grown & (part == 0), structure, np.where(mask & ~grown, 0, part))
    return smoothed


shift = partial(ndimage.shift, order=1, mode="nearest")


def _depth(mask: np.ndarray) -> np.ndarray:
    """Voxels to the outline of a slice's mask, positive inside, negative outside."""
    return distance_transform_edt(mask) - distance_transform_edt(~mask)
