"""What one run of the page leaves for its viewers and its downloads."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.viewers.slices import best_position, presets
from iris_core.case import Case, InputError
from iris_core.evaluation.metrics import dice, mean_surface_distance, surface_dice
from iris_core.geometry import oriented
from nnunet_adapters.folder import volumes_ml

LOW = 0.5  # confidence below this is warned of
TOLERANCE_MM = 2.0


@dataclass(frozen=True)
class Score:
    """Of one class against the truth. None where neither mask has the class; the distance also where one has not."""

    dice: float | None
    surface_dice: float | None
    distance_mm: float | None


@dataclass(frozen=True)
class Scan:
    """One scan as the viewers take it.

    image: (x, y, z) in RAS+ order. labels: of the same shape, 0 is background, i the i-th class of the result. errors:
    against the truth, 1 where both agree on a structure, 2 where the mask alone has it, 3 where the truth alone; or
    None. All are mapped from disk. spacing_mm: along x, y, z. windows: name → lowest and highest intensity shown.
    middle: the voxel where most is labelled. volumes_ml, confidence, scores, notes: by class name; notes say which
    reference served a class. overlapping: whether classes are regions, painted one over the other. uploads: what the
    visitor gave. mask: the result's file; None for a reference.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    errors: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    windows: dict[str, tuple[float, float]]
    middle: tuple[int, int, int]
    volumes_ml: dict[str, float]
    confidence: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    overlapping: bool = False
    name: str = ""
    uploads: tuple[Path, ...] = ()
    mask: Path | None = None

    def doubtful(self) -> dict[str, float]:
        """The classes whose confidence is low."""
        return {name: value for name, value in self.confidence.items() if value < LOW}


@dataclass(frozen=True)
class Result:
    """One run of the page.

    names: all classes. scans: references, then the queries that worked. failures: an error for each that did not.
    stopped: whether the visitor cancelled. extras: what there is to take away beside the masks.
    rows: statistics, one for each query and class. asked: queries that were to be segmented.
    """

    folder: Path
    names: tuple[str, ...]
    scans: tuple[Scan, ...]
    failures: tuple[InputError, ...] = ()
    stopped: bool = False
    extras: tuple[Path, ...] = ()
    rows: tuple[dict, ...] = ()
    asked: int = 0

    @property
    def queries(self) -> tuple[Scan, ...]:
        return tuple(scan for scan in self.scans if scan.mask)

    @property
    def masks(self) -> tuple[Path, ...]:
        return tuple(scan.mask for scan in self.queries)


def keep_scan(
    title: str, case: Case, labels: np.ndarray, classes: dict[str, int], truth: np.ndarray | None, stem: Path, **more
) -> Scan:
    """Put a case and its labels (both in file order) where the viewers find them: in files that begin with ``stem``.

    classes: name → value. more: further fields of the scan.
    """
    values = tuple(classes.values())
    image, spacing_mm = oriented(case, _compact(case.image))
    index = _index(oriented(case, labels)[0], values)
    arrays = {"image": image, "labels": index}
    if truth is not None:
        given = _index(oriented(case, truth)[0], values)
        arrays["errors"] = np.select([(index == given) & (given > 0), index > 0, given > 0], [1, 2, 3]).astype(np.uint8)
    kept = {name: _mapped(array, stem.with_name(f"{stem.name}-{name}.npy")) for name, array in arrays.items()}
    return Scan(
        title=title,
        errors=kept.pop("errors", None),
        **kept,
        spacing_mm=spacing_mm,
        windows=presets(case.image),
        middle=best_position(index),
        volumes_ml=volumes_ml(labels, values, tuple(classes), case.voxel_ml),
        **more,
    )


def scores(case: Case, labels: np.ndarray, truth: np.ndarray, classes: dict[str, int]) -> dict[str, Score]:
    """Class name → how well the labels meet the truth."""
    spacing_mm, found = tuple(case.spacing_mm), {}
    for name, value in classes.items():
        both = labels == value, truth == value
        found[name] = Score(
            dice(*both), surface_dice(*both, spacing_mm, TOLERANCE_MM), mean_surface_distance(*both, spacing_mm)
        )
    return found


def _compact(image: np.ndarray) -> np.ndarray:
    """int16 where it holds the same values."""
    small = image.astype(np.int16) if np.abs(image).max() < 2**15 else None
    return small if small is not None and np.array_equal(small, image) else image


def _index(labels: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Label values → 1 for the first, 2 for the second, …; 0 for all others."""
    order = np.argsort(values)
    ranked = np.asarray(values)[order]
    index = np.empty(labels.shape, np.min_scalar_type(len(values)))
    for x, part in enumerate(labels):
        at = np.searchsorted(ranked, part).clip(max=len(values) - 1)
        index[x] = np.where(ranked[at] == part, order[at] + 1, 0)
    return index


def _mapped(array: np.ndarray, file: Path) -> np.ndarray:
    np.save(file, np.ascontiguousarray(array))
    return np.load(file, mmap_mode="r")
