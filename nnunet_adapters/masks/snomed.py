"""What a structure's name means, as codes of SNOMED CT: snomed.csv, a line a name."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Code = tuple[str, str]  # value, meaning

TABLE = Path(__file__).with_name("snomed.csv")
CATEGORIES: dict[str, Code] = {
    "structure": ("123037004", "Anatomical Structure"),
    "tissue": ("85756007", "Tissue"),
    "lesion": ("49755003", "Morphologically Altered Structure"),
}
UNKNOWN: Code = ("91723000", "Anatomical Structure")
SIDES: dict[str, Code] = {
    **dict.fromkeys(("left", "l", "lt"), ("7771000", "Left")),
    **dict.fromkeys(("right", "r", "rt"), ("24028007", "Right")),
}


@dataclass(frozen=True)
class Meaning:
    """category: what kind of thing. type: which. side: left or right, or None."""

    category: Code
    type: Code
    side: Code | None = None


@cache
def _table() -> dict[str, Meaning]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            row["name"]: Meaning(CATEGORIES[row["category"]], (row["code"], row["meaning"]))
            for row in csv.DictReader(file)
        }


def meaning_of(name: str) -> Meaning:
    """Of 'liver', 'Kidney_left' or 'left kidney'. Of a name that the table lacks: a structure of the body, no more."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    if known := _table().get(" ".join(words)):
        return known
    sides = {SIDES[word] for word in words if word in SIDES}
    known = _table().get(" ".join(word for word in words if word not in SIDES))
    if known and len(sides) <= 1:
        return Meaning(known.category, known.type, *sides)
    return Meaning(CATEGORIES["tissue"], UNKNOWN)
