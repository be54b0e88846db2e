"""The training cache: every case once, as episodes take it. numpy alone reads it, on any machine.

cache/
  cache.json             datasets: name → {classes: [{name, value, members}], ignore: value or null, images: whether
                         it has any, scheme: of their intensities, cases: {case: patient}, train: [case …],
                         val: [case …]; of label maps that know their structures by name, partners: {case: [case …]},
                         those that show other bodies' same structures}
  <dataset>/<case>.npz   image float16 (not of a label map alone), labels uint8 or int32, spacing_mm (3,),
                         source: what it was made from
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError, LabelClass
from iris_core.embeddings import geometric_mean
from iris_core.files import held, read_json, write_atomically, write_json
from iris_core.geometry import choose_spacing, coarsen, oriented
from iris_core.intensity import normalise

FINEST_WINDOW = 128  # voxels: the largest window of a preset, hence the finest spacing a task may choose
FINEST_SHARE = 0.8  # of that spacing; episodes vary it
LOCKED_S = 60.0  # how long another process may take to write the index
FILLING = 20_000  # label of what only fills a body: painted, never asked for


@dataclass(frozen=True)
class CachedCase:
    """A case in RAS+ order: labels (x, y, z), spacing in mm along each axis.

    image (x, y, z) float32, normalised, or None for a label map without image.
    """

    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    image: np.ndarray | None


def write_case(path: Path, case: Case, scheme: str, source: str) -> None:
    """Orient and normalise one labelled case, and store it no finer than any task on it could ask for.

    source: names the files and settings it was made from, so that a stale entry is noticed.
    """
    image, spacing = oriented(case, normalise(case.image, scheme))
    labels, _ = oriented(case, case.labels)
    tasks = [choose_spacing([c.mask(labels)], spacing, FINEST_WINDOW) for c in case.present()]
    if tasks:
        image, labels, spacing = coarsen(image, labels, spacing, FINEST_SHARE * min(tasks))
    _write(path, labels, spacing, source, image=image.astype(np.float16))


def write_label_map(path: Path, case: Case, source: str) -> None:
    """Orient and store labels alone, for painting."""
    labels, spacing = oriented(case, case.labels)
    _write(path, labels, spacing, source)


def _write(path: Path, labels: np.ndarray, spacing_mm: tuple[float, ...], source: str, **arrays: np.ndarray) -> None:
    small = labels.astype(np.uint8 if labels.min() >= 0 and labels.max() < 256 else np.int32)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, labels=small, spacing_mm=np.array(spacing_mm), source=source, **arrays)

    write_atomically(path, write)


def is_current(path: Path, source: str) -> bool:
    """Whether an entry exists and was made from ``source``."""
    if not path.is_file():
        return False
    with np.load(path, allow_pickle=False) as stored:
        return str(stored["source"]) == source


def read_case(path: Path) -> CachedCase:
    with np.load(path, allow_pickle=False) as stored:
        image = stored.get("image")
        spacing_mm = tuple(float(s) for s in stored["spacing_mm"])
        return CachedCase(stored["labels"], spacing_mm, None if image is None else image.astype(np.float32))


def class_spacings(cache: Path, name: str, dataset: dict, window: int) -> dict[str, float]:
    """Class name → working spacing in mm that suits it, the geometric mean over training cases that show it."""
    found: dict[str, list[float]] = {}
    for case in dataset["train"]:
        cached = read_case(cache / name / f"{case}.npz")
        values = set(np.unique(cached.labels).tolist())
        for c in (LabelClass(**c) for c in dataset["classes"]):
            if values.intersection(c.members):
                mask = c.mask(cached.labels)
                found.setdefault(c.name, []).append(choose_spacing([mask], cached.spacing_mm, window))
    return {key: geometric_mean(spacings) for key, spacings in found.items()}


def read_index(cache: Path) -> dict[str, dict]:
    """The datasets of a cache. Raises InputError where there is none."""
    path = cache / "cache.json"
    if not path.is_file():
        raise InputError(f"{cache}: not a training cache (no cache.json); `iris train --datasets …` makes one")
    try:
        return dict(read_json(path)["datasets"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not usable as the index of a training cache: {error!r}; make it anew") from error


def write_index(cache: Path, datasets: dict[str, dict]) -> None:
    """Add datasets to a cache's index; others stay."""
    with held(cache, LOCKED_S):  # two runs may fill one cache
        known = read_index(cache) if (cache / "cache.json").is_file() else {}
        write_json(cache / "cache.json", {"datasets": known | datasets})
