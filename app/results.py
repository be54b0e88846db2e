"""What one run of the page leaves for its viewers and its downloads."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from app.viewers.slices import best_position, presets
from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.evaluation.metrics import dice, mean_surface_distance, surface_dice
from iris_core.geometry import Orientation, oriented
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
class Layer:
    """Another way to mark the voxels of a scan.

    labels: (x, y, z) in RAS+ order, 0 is nothing, i the i-th of the legend. legend: name → red, green, blue (0 to 255).
    """

    name: str
    labels: np.ndarray
    legend: dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Scan:
    """One scan as the viewers take it.

    source: the scan's file, or its folder of DICOM. uploads: what the visitor gave. reference: whether it shows the
    structures, else they are to be found in it.
    image: (x, y, z) in RAS+ order. labels: of the same shape, 0 is background, i the i-th class of the result. truth:
    true labels alike, or None. All are mapped from disk, from files that begin with ``stem``. affine: of that grid, to
    RAS+ mm.
    windows: name → lowest and highest intensity shown. middle: the voxel where most is labelled.
    volumes_ml, confidence, scores, notes: by class name; notes say which reference served a class.
    overlapping: whether classes are regions, painted one over the other. mask: its file, on the scan's own grid; of a
    reference the one that was uploaded or drawn. corrected: whether a person corrected what was found.
    layers: other ways to mark it. task: T with which it was segmented. drawn: how often its labels were drawn anew;
    helped: how often the page did that, on the visitor's wish.
    """

    source: Path
    uploads: tuple[Path, ...]
    reference: bool
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    affine: np.ndarray
    windows: dict[str, tuple[float, float]]
    middle: tuple[int, int, int]
    volumes_ml: dict[str, float]
    stem: Path
    confidence: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    overlapping: bool = False
    mask: Path | None = None
    corrected: bool = False
    layers: tuple[Layer, ...] = ()
    task: TaskEmbedding | None = None
    drawn: int = 0
    helped: int = 0

    def window(self, name: str | None = None) -> tuple[float, float]:
        """Lowest and highest intensity shown; of the first window where there is none of that name."""
        return self.windows.get(name) or next(iter(self.windows.values()))

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def title(self) -> str:
        return f"{'reference' if self.reference else 'query'}: {self.name}"

    @property
    def found(self) -> bool:
        """Whether it is a query in which structures were looked for."""
        return self.mask is not None and not self.reference

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along x, y, z."""
        return tuple(float(mm) for mm in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def errors(self) -> np.ndarray | None:
        """1 where labels and truth mark the same structure, 2 where the labels alone mark one, 3 the truth alone."""
        if self.truth is None:
            return None
        same = (self.labels == self.truth) & (self.truth > 0)
        return np.select([same, self.labels > 0, self.truth > 0], [1, 2, 3]).astype(np.uint8)

    @property
    def trust(self) -> float | None:
        """The mean confidence of its classes, or None."""
        return float(np.mean(list(self.confidence.values()))) if self.confidence else None

    def doubtful(self) -> dict[str, float]:
        """The classes whose confidence is low."""
        return {name: value for name, value in self.confidence.items() if value < LOW}


@dataclass(frozen=True)
class Result:
    """What a visitor looks at: their uploads, and after a run what was found in them.

    classes: name → label value, of all scans. scans: references, then queries. failures: an error for each that did
    not work. stopped: whether the visitor cancelled. extras: what there is to take away beside the masks.
    rows: statistics, one for each query and class. query_count: queries that were to be segmented, 0 before a run.
    """

    folder: Path
    classes: dict[str, int] = field(default_factory=dict)
    scans: tuple[Scan, ...] = ()
    failures: tuple[InputError, ...] = ()
    stopped: bool = False
    extras: tuple[Path, ...] = ()
    rows: tuple[dict, ...] = ()
    query_count: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.classes)

    @property
    def queries(self) -> tuple[Scan, ...]:
        return tuple(scan for scan in self.scans if not scan.reference)

    @property
    def masks(self) -> tuple[Path, ...]:
        """Of the queries in which something was looked for."""
        return tuple(scan.mask for scan in self.queries if scan.found)

    @property
    def trust(self) -> float | None:
        """The mean confidence of the queries that nobody corrected, or None."""
        found = [scan.trust for scan in self.queries if scan.trust is not None]
        return float(np.mean(found)) if found else None

    def corrected(self, number: int, scan: Scan) -> "Result":
        """With a scan in place of a query whose mask a person corrected. The zip, statistics and DICOM-SEG, which hold
        what was found before, are no longer offered; the task still is."""
        scans = (*self.scans[:number], scan, *self.scans[number + 1 :])
        return replace(self, scans=scans, extras=tuple(p for p in self.extras if p.suffix == ".safetensors"))

    def worst(self) -> Scan | None:
        """The query to correct next: the one whose mean confidence is lowest."""
        return min((s for s in self.queries if s.trust is not None), key=lambda s: s.trust, default=None)


def keep_scan(
    case: Case, labels: np.ndarray | None, classes: dict[str, int], truth: np.ndarray | None, stem: Path, **more
) -> Scan:
    """Put a case and its labels (both in file order) where the viewers find them: in files that begin with ``stem``.

    labels: None where nothing is marked. classes: name → value. more: further fields of the scan.
    """
    values = tuple(classes.values())
    image, _ = oriented(case, _compact(case.image))
    arrays = {"image": image}
    for kind, marked in (("labels", labels), ("truth", truth)):
        if marked is not None:
            arrays[kind] = index_of(oriented(case, marked)[0], values)
    arrays.setdefault("labels", np.zeros(image.shape, np.uint8))
    kept = {name: mapped(array, stem.with_name(f"{stem.name}-{name}.npy")) for name, array in arrays.items()}
    affine = Orientation.of(case.affine).affine(case.affine, case.image.shape)
    names, truth = tuple(classes), kept.get("truth")
    spacing_mm = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(
        image=kept["image"],
        labels=kept["labels"],
        truth=truth,
        scores={} if truth is None else scores_of(kept["labels"], truth, names, spacing_mm),
        affine=affine,
        windows=presets(case.image),
        middle=best_position(kept["labels"]),
        volumes_ml=volumes_of(kept["labels"], names, affine),
        stem=stem,
        **more,
    )


def volumes_of(labels: np.ndarray, names: tuple[str, ...], affine: np.ndarray) -> dict[str, float]:
    """Class name → mL. labels: i is the i-th of ``names``."""
    return volumes_ml(labels, tuple(range(1, len(names) + 1)), names, abs(np.linalg.det(affine[:3, :3])) / 1000)


def scores_of(
    labels: np.ndarray, truth: np.ndarray, names: tuple[str, ...], spacing_mm: tuple[float, ...]
) -> dict[str, Score]:
    """Class name → how well the labels meet the truth; in both i is the i-th of ``names``."""
    found = {}
    for i, name in enumerate(names, 1):
        both = labels == i, truth == i
        found[name] = Score(
            dice(*both), surface_dice(*both, spacing_mm, TOLERANCE_MM), mean_surface_distance(*both, spacing_mm)
        )
    return found


def _compact(image: np.ndarray) -> np.ndarray:
    """int16 where it holds the same values."""
    small = image.astype(np.int16) if np.abs(image).max() < 2**15 else None
    return small if small is not None and np.array_equal(small, image) else image


def index_of(labels: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Label values → 1 for the first, 2 for the second, …; 0 for all others."""
    if not values:
        return np.zeros(labels.shape, np.uint8)
    order = np.argsort(values)
    ranked = np.asarray(values)[order]
    index = np.empty(labels.shape, np.min_scalar_type(len(values)))
    for x, part in enumerate(labels):
        at = np.searchsorted(ranked, part).clip(max=len(values) - 1)
        index[x] = np.where(ranked[at] == part, order[at] + 1, 0)
    return index


def mapped(array: np.ndarray, file: Path) -> np.ndarray:
    np.save(file, np.ascontiguousarray(array))
    return np.load(file, mmap_mode="r")
