"""Folders of label maps without images, for image synthesis: the same three calls as a RawDataset."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from iris_core.case import Case, InputError, LabelClass
from nnunet_adapters.images import read_reference


@dataclass(frozen=True)
class LabelMaps:
    """files: case → its label map. Every map is a patient of its own. name: of the folder, its entry in a cache."""

    name: str
    files: dict[str, Path]
    classes: tuple[LabelClass, ...] = ()
    ignore: int | None = None

    @property
    def patients(self) -> dict[str, str]:
        return {case: case for case in self.files}

    def case(self, name: str) -> Case:
        """Raises InputError where the file is no label map."""
        return read_reference(self.files[name], self.files[name])

    def source(self, name: str) -> str:
        """What a case in a training cache is made from; another value means that it is stale."""
        stat = self.files[name].stat()
        return json.dumps(["label map", self.files[name].name, stat.st_size, stat.st_mtime_ns])

    def index(self, train: list[str], val: list[str]) -> dict:
        """The entry in a training cache."""
        return {
            "classes": [asdict(c) for c in self.classes],
            "ignore": None,
            "images": False,
            "cases": self.patients,
            "train": train,
            "val": val,
        }


def open_label_maps(folder: Path) -> LabelMaps:
    """All .nii and .nii.gz of a folder. Raises InputError where there are none."""
    files = {p.name.split(".nii")[0]: p for p in sorted(folder.glob("*.nii*"))}
    if not files:
        raise InputError(f"{folder}: a folder of label maps must hold .nii or .nii.gz files, found none")
    return LabelMaps(f"label_maps_{folder.resolve().name}", files)
