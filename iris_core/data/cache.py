"""The training cache: every case once, RAS+, normalised, float16, with what episodes need. numpy alone reads it.

cache/
  cache.json             datasets: name → {classes: [{name, value, members}], ignore: value or null,
                         cases: {case: patient}, train: [case …], val: [case …]}
  <dataset>/<case>.npz   image float16, labels uint8 or int32, spacing_mm (3,)
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError
from iris_core.checkpoint import write_atomically
from iris_core.geometry import oriented
from iris_core.intensity import normalise


@dataclass(frozen=True)
class CachedCase:
    """A case on its own grid in RAS+ order: image (x, y, z) normalised float32, labels, spacing in mm."""

    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]


def write_case(path: Path, case: Case, scheme: str) -> None:
    """Orient, normalise and store one labelled case."""
    image, spacing = oriented(case, normalise(case.image, scheme))
    labels, _ = oriented(case, case.labels)
    small = labels.astype(np.uint8 if labels.min() >= 0 and labels.max() < 256 else np.int32)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, image=image.astype(np.float16), labels=small, spacing_mm=np.array(spacing))

    write_atomically(path, write)


def read_case(path: Path) -> CachedCase:
    with np.load(path, allow_pickle=False) as stored:
        return CachedCase(
            stored["image"].astype(np.float32), stored["labels"], tuple(float(s) for s in stored["spacing_mm"])
        )


def read_index(cache: Path) -> dict:
    """The datasets of a cache. Raises InputError where there is none."""
    path = cache / "cache.json"
    if not path.is_file():
        raise InputError(f"{cache}: not a training cache (no cache.json); `iris train --datasets …` makes one")
    return json.loads(path.read_text())["datasets"]
