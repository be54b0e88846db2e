"""Folders of label maps without images, for image synthesis: the same three calls as a RawDataset.

A folder's labels mean the same in all its files; or each file numbers them for itself, and names.json says what they
are: file → {"labels": {value: name, …}, "source": what the map was cut from, "spacing_mm": [x, y, z]}.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError, LabelClass
from iris_core.data.cache import FILLING
from iris_core.files import read_json
from nnunet_adapters.images import read_reference

BODY = re.compile("^(VH|SBU)_[FM]_")  # what HuBMAP puts before a structure's name: whose it is
REST = re.compile("^rest|other tissue")  # names of what only fills a body
SHARED = 0.25  # share of their names that two maps must have in common to be two subjects of one anatomy. Ours
ALIKE = 2.0  # largest ratio of their voxel sizes: a mouse's heart is not looked for at the scale of a man's. Ours


@dataclass(frozen=True)
class LabelMaps:
    """name: of the folder, its entry in a cache. files: case → its label map. patients: case → whose body it shows.

    structures: case → (label value → structure), from names.json; empty where there is none.
    partners: case → the maps of other bodies that it may be paired with; None where that is all of them.
    """

    name: str
    files: dict[str, Path]
    patients: dict[str, str]
    structures: dict[str, dict[int, str]]
    partners: dict[str, list[str]] | None
    classes: tuple[LabelClass, ...] = ()
    ignore: int | None = None

    def case(self, name: str) -> Case:
        """A map as its file numbers it. Raises InputError where the file is no label map."""
        return read_reference(self.files[name], self.files[name])

    def numbered(self, name: str) -> Case:
        """A map for the cache: one value a structure in the whole folder, FILLING for what only fills the body.

        Raises InputError where names.json does not name a value.
        """
        case = self.case(name)
        if self.partners is None:
            return case
        numbers = self._numbers(name)
        values, places = np.unique(case.labels, return_inverse=True)
        unnamed = sorted({int(v) for v in values} - {0, *numbers})
        if unnamed:
            raise InputError(f"{self.files[name]}: names.json must name every label, {unnamed[:5]} have no name")
        lookup = np.array([numbers.get(int(v), 0) for v in values], np.int32)
        return replace(case, labels=lookup[places.reshape(case.labels.shape)])

    def source(self, name: str) -> str:
        """What a case in a training cache is made from; another value means that it is stale."""
        stat = self.files[name].stat()
        stamps = ["label map", self.files[name].name, stat.st_size, stat.st_mtime_ns]
        return json.dumps(stamps if self.partners is None else [*stamps, self._numbers(name)])

    def index(self, train: list[str], val: list[str]) -> dict:
        """The entry in a training cache."""
        entry = {
            "classes": [asdict(c) for c in self.classes],
            "ignore": None,
            "images": False,
            "cases": self.patients,
            "train": train,
            "val": val,
        }
        return entry if self.partners is None else entry | {"partners": self.partners}

    def _numbers(self, name: str) -> dict[int, int]:
        """Label value in the file → value in the cache."""
        known = sorted({s for table in self.structures.values() for s in table.values() if not REST.search(s)})
        numbers = {structure: i for i, structure in enumerate(known, 1)}
        return {value: numbers.get(structure, FILLING) for value, structure in self.structures[name].items()}


def open_label_maps(folder: Path) -> LabelMaps:
    """All .nii and .nii.gz of a folder. Raises InputError where there are none, or names.json does not fit them."""
    files = {p.name.split(".nii")[0]: p for p in sorted(folder.glob("*.nii*"))}
    if not files:
        raise InputError(f"{folder}: a folder of label maps must hold .nii or .nii.gz files, found none")
    name, path = f"label_maps_{folder.resolve().name}", folder / "names.json"
    if not path.is_file():
        return LabelMaps(name, files, {case: case for case in files}, {}, None)
    try:
        listed = read_json(path)
        entries = {case: listed[file.name] for case, file in files.items()}
        structures = {k: {int(v): BODY.sub("", s) for v, s in e["labels"].items()} for k, e in entries.items()}
        bodies = {case: str(entry["source"]) for case, entry in entries.items()}
        spacings = {case: max(float(s) for s in entry["spacing_mm"]) for case, entry in entries.items()}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must give labels, source and spacing_mm of every file: {error!r}") from error
    return LabelMaps(name, files, bodies, structures, _partners(structures, bodies, spacings))


def _partners(
    structures: dict[str, dict[int, str]], bodies: dict[str, str], spacings: dict[str, float]
) -> dict[str, list[str]]:
    """Case → maps of other bodies that show much the same at about the same scale."""
    shown = {case: {s for s in table.values() if not REST.search(s)} for case, table in structures.items()}

    def fit(one: str, other: str) -> bool:
        small, large = sorted((spacings[one], spacings[other]))
        common = len(shown[one] & shown[other])
        return (
            bodies[one] != bodies[other]
            and large <= ALIKE * small
            and common >= SHARED * len(shown[one] | shown[other])
        )

    return {one: [other for other in shown if fit(one, other)] for one in shown}
