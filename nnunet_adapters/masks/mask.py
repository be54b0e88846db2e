"""What a file of masks holds, and what is written to one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from unicodedata import category

import numpy as np

from iris_core.case import InputError

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255
Described = tuple[dict[int, str], dict[int, Colour]]  # names and colours of label values
MAX_TEXT_BYTES = 2**20  # of what describes labels


@dataclass(frozen=True)
class Mask:
    """labels: (x, y, z) int32, 0 is background. affine: voxel → RAS+ mm. names, colours: by label value; may lack some.

    exact_part: the file may hold only a part of its scan's grid, or have its axes in another order.
    """

    labels: np.ndarray
    affine: np.ndarray
    names: dict[int, str] = field(default_factory=dict)
    colours: dict[int, Colour] = field(default_factory=dict)
    exact_part: bool = False


@dataclass(frozen=True)
class Structure:
    """A class as results are written: its label value, its name, its colour."""

    value: int
    name: str
    colour: Colour


def found(labels: np.ndarray, structures: Sequence[Structure]) -> list[Structure]:
    """The structures that occur in labels (x, y, z)."""
    there = set(np.unique(labels).tolist())
    return [s for s in structures if s.value in there]


def check_names(path, names: dict[int, str]) -> dict[int, str]:
    """The names, if they are all different, not empty, and text of one line that every format can hold."""
    if strange := [name for name in names.values() if any(category(c) in ("Cc", "Cs") for c in name)]:
        raise InputError(
            f"{path}: the name of a structure must be text of one line, got {strange[0][:80]!r}; rename it there"
        )
    wrong = [name for name, count in Counter(names.values()).items() if count > 1 or not name.strip()]
    if wrong:
        raise InputError(
            f"{path}: every structure must have a name of its own, found none or twice: {wrong[:5]}; rename them there"
        )
    return names


def refuse_overlap(path, one: str, other: str, voxels: int) -> None:
    raise InputError(
        f"{path}: structures must not overlap, {one!r} and {other!r} share {voxels} voxels; take one of them out, or"
        " give them as two references"
    )


def smallest(labels: np.ndarray) -> np.ndarray:
    """Labels in the smallest type that holds them: uint8, int16 or int32."""
    low, high = int(labels.min()), int(labels.max())
    dtype = np.uint8 if low >= 0 and high < 256 else np.int16 if abs(low) < 2**15 > high else np.int32
    return np.ascontiguousarray(labels.astype(dtype))
