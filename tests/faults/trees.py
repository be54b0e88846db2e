"""What lies in a folder after a fault: is each file whole, and is it what an undisturbed run leaves?"""

import csv
import gzip
import json
import shutil
import sqlite3
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

PASSING = {"seconds", "seconds_per_query", "command", "made", "path"}  # what differs from run to run
UNEQUAL = ".html", ".npz", ".dcm"  # random names, times and identifiers are in them: they are whole, and that is all
SPOILT = (
    EOFError,
    KeyError,
    OSError,
    SafetensorError,
    sqlite3.Error,
    UnicodeError,
    ValueError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
)


def files(folder: Path) -> dict[str, Path]:
    """All files below a folder, or a file itself, by their names; TensorBoard's, which are written on and on, not."""
    found = folder.rglob("*") if folder.is_dir() else [folder] * folder.exists()
    named = {str(path.relative_to(folder.parent)): path for path in found if path.is_file() and path.name != ".lock"}
    return {name: path for name, path in named.items() if "tensorboard" not in path.parts}


def hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def spoilt(folder: Path) -> list[str]:
    """Files that people see and that are not whole."""
    faults = []
    for name, path in files(folder).items():
        try:
            hidden(name) or _content(path)
        except SPOILT as error:
            faults.append(f"{name}: {error!r}")
    return faults


def differences(folder: Path, expected: Path) -> list[str]:
    """How a folder differs from what an undisturbed run left; what is hidden must be gone."""
    found, wanted = files(folder), files(expected)
    faults = [f"{name}: is left" for name in found.keys() - wanted.keys()]
    faults += [f"{name}: is missing" for name in wanted.keys() - found.keys()]
    for name in found.keys() & wanted.keys():
        try:
            there, right = _content(found[name]), _content(wanted[name])
        except SPOILT as error:
            faults.append(f"{name}: {error!r}")
            continue
        if not found[name].name.endswith(UNEQUAL) and there != right:
            faults.append(f"{name}: has another content")
    return faults


def _content(path: Path):
    """What a file says, as far as two runs say the same. Raises one of SPOILT where it is not whole."""
    name = path.name
    if name.endswith(".json"):
        return _lasting(json.loads(path.read_text("utf-8")))
    if name.endswith(".safetensors"):
        return {key: array.tobytes() for key, array in load_file(path).items()}
    if name.endswith(".nii.gz"):
        image = nibabel.load(path)
        return np.asanyarray(image.dataobj).tobytes(), image.header.binaryblock
    if name.endswith(".npz"):
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key].tobytes() for key in stored}
    if name.endswith(".html"):
        if not path.read_text("utf-8").rstrip().endswith("</html>"):
            raise ValueError("the page does not end")
        return None
    if name.endswith(".csv"):
        text = path.read_text("utf-8")
        if text and not text.endswith("\n"):
            raise ValueError("the last line does not end")
        return [_lasting(row) for row in csv.DictReader(text.splitlines())]
    if name.endswith(".sqlite"):  # a pool's: its keys and pages depend on what was interrupted
        with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(_copied(path, Path(folder)))) as rows:
            if not rows.execute("SELECT name FROM sqlite_master").fetchall():
                return [], []  # made, and nothing written to it yet
            cases = rows.execute("SELECT name, descriptor FROM cases ORDER BY name").fetchall()
            return cases, rows.execute("SELECT name, vector FROM classes ORDER BY name, vector").fetchall()
    return path.read_bytes()


def _copied(path: Path, folder: Path) -> Path:
    """A database where there is room, which SQLite needs to read it, with what was not yet merged into it."""
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copy(part, folder)
    return folder / path.name


def _lasting(value):
    if isinstance(value, dict):
        return {key: _lasting(part) for key, part in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [_lasting(part) for part in value]
    return "done" if value == "kept" else value
