"""Scans with labels → a new nnU-Net raw dataset, described by nnunetv2's own function."""

import csv
import io
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from iris_core.case import Case, InputError
from iris_core.files import write_atomically
from nnunet_adapters.cells import plain
from nnunet_adapters.masks import nifti
from nnunet_adapters.masks.mask import Structure
from nnunet_adapters.outputs import output_name
from nnunet_adapters.voxels import read_voxels

NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")
ENDING = ".nii.gz"
TABLE = "cases.csv"  # every scan, also those that were left out
AS_THEY_ARE = (np.uint8, np.int16, np.uint16, np.int32, np.float32)  # nnU-Net reads all as float32


@dataclass(frozen=True)
class Labelled:
    """A scan that may become a case.

    labels: reads its labels (x, y, z), 1 for the first name of the dataset and so on. confidence: name → 0 to 1.
    left_out: why it does not become a case; empty if it does.
    """

    scan: Path
    labels: Callable[[], np.ndarray]
    confidence: dict[str, float] = field(default_factory=dict)
    left_out: str = ""


def case_names(scans: Sequence[Path]) -> dict[Path, str]:
    """Scan → the case's name: the file's, without nnU-Net's channel, of ASCII letters, digits, _ and - only.

    Raises InputError where two scans would have one name.
    """
    names: dict[Path, str] = {}
    taken: dict[str, Path] = {}
    for scan in scans:
        bare = output_name(scan, "nii.gz").removesuffix(ENDING).removesuffix("_0000")
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", bare)
        if (other := taken.setdefault(name.lower(), scan)) is not scan:
            raise InputError(f"{scan}: would be the case {name!r}, as {other} is; rename one of the two")
        names[scan] = name
    return names


def check_target(folder: Path, scans: Sequence[Path]) -> None:
    """Raise InputError unless ``folder`` has a dataset's name, is new or of a former run, and holds no ``scans``."""
    if not NAME.fullmatch(folder.name):
        raise InputError(f"{folder}: a dataset must be named DatasetNNN_Name, as Dataset123_Liver")
    there = [name for name in ("imagesTr", "labelsTr", "dataset.json") if (folder / name).exists()]
    if there and not (folder / TABLE).is_file():
        raise InputError(f"{folder}: holds {', '.join(there)} of another origin; choose another --output")
    for scan in scans:
        if scan.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{scan}: lies in the folder that is to be written, {folder}; choose another --output")


def consecutive(case_labels: np.ndarray, values: dict[str, tuple[int, ...]], names: Sequence[str]) -> np.ndarray:
    """Labels of the same shape whose values are 1, 2, … in the order of ``names``; all others become 0.

    values: name → the values that it has in ``case_labels``.
    """
    new = np.zeros(case_labels.shape, np.uint8 if len(names) < 256 else np.int16)
    for number, name in enumerate(names, 1):
        new[np.isin(case_labels, values.get(name, ()))] = number
    return new


def reference_labels(reference: Case, names: Sequence[str]) -> np.ndarray:
    return consecutive(reference.labels, {c.name: c.members for c in reference.classes}, names)


def mask_labels(mask: Path, classes: dict[str, str], names: Sequence[str]) -> np.ndarray:
    """Labels of a NIfTI that `iris segment` wrote. classes: value → name, as run.json has them."""
    labels = np.asanyarray(nibabel.load(mask).dataobj)
    return consecutive(labels, {name: (int(value),) for value, name in classes.items()}, names)


def write_dataset(
    folder: Path, cases: Sequence[Labelled], names: Sequence[str], colours: Sequence, scheme: str, description: str
) -> int:
    """Write imagesTr, labelsTr, cases.csv and, last, dataset.json. Returns the number of cases.

    What a former run wrote and this one does not is removed. names: of the labels 1, 2, …; colours: theirs.
    scheme: of intensities; "ct" makes nnU-Net normalise Hounsfield units, anything else each scan by itself.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    called = case_names([case.scan for case in cases])
    chosen = [case for case in cases if not case.left_out]
    (folder / "dataset.json").unlink(missing_ok=True)  # a dataset that is half there must not look whole
    for name in _former(folder) - {called[case.scan] for case in chosen}:
        for path in _files(folder, name):
            path.unlink(missing_ok=True)
    write_atomically(folder / TABLE, lambda temporary: temporary.write_text(_table(cases, called, names), "utf-8"))
    structures = [Structure(i, name, colour) for i, (name, colour) in enumerate(zip(names, colours, strict=True), 1)]
    for case in chosen:
        image, label = _files(folder, called[case.scan])
        _write_image(case.scan, image)
        nifti.write(case.labels(), case.scan, structures, label)
    with tempfile.TemporaryDirectory() as temporary:
        generate_dataset_json(
            temporary,
            {0: "CT" if scheme == "ct" else "image"},
            {"background": 0} | {name: i for i, name in enumerate(names, 1)},
            len(chosen),
            ENDING,
            dataset_name=folder.name,
            description=description,
            license="that of the scans",
            converted_by="iris label",
        )
        text = Path(temporary, "dataset.json").read_text("utf-8")
    write_atomically(folder / "dataset.json", lambda temporary: temporary.write_text(text, "utf-8"))
    return len(chosen)


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "imagesTr" / f"{name}_0000{ENDING}", folder / "labelsTr" / f"{name}{ENDING}"


def _write_image(scan: Path, output: Path) -> None:
    """The scan as a NIfTI with its own grid and numbers; those that nnU-Net's readers may not take as float32."""
    voxels = read_voxels(scan)[0]
    if voxels.dtype not in AS_THEY_ARE:
        voxels = voxels.astype(np.float32)
    image = nifti.image(voxels, scan)
    write_atomically(output, lambda temporary: nibabel.save(image, temporary))


def _former(folder: Path) -> set[str]:
    """Names in the table of a former run."""
    if not (folder / TABLE).is_file():
        return set()
    with (folder / TABLE).open(encoding="utf-8", newline="") as table:
        return {row["case"].removeprefix("'") for row in csv.DictReader(table)}


def _table(cases: Sequence[Labelled], called: dict[Path, str], names: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "scan", *(f"confidence {name}" for name in names), "left out"])
    for case in cases:
        trust = [case.confidence.get(n) for n in names]
        writer.writerow(plain([called[case.scan], str(case.scan), *trust, case.left_out]))
    return text.getvalue()
