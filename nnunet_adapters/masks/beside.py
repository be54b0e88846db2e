"""Names and colours of labels in a file beside the mask: ITK-SNAP's label description, or nnU-Net's dataset.json."""

import re
from pathlib import Path

from iris_core.case import InputError
from iris_core.files import parse_json
from nnunet_adapters.headers import ending
from nnunet_adapters.masks.mask import MAX_TEXT_BYTES, Described, check_names

SNAP = b"ITK-SnAP Label Description File"
SNAP_LINE = re.compile(r'(\d{1,9})\s+(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+\S+\s+\S+\s+\S+\s+"([^"]*)"')


def beside(path: Path) -> Described:
    """What lies beside a mask: mask.label or mask.txt of ITK-SNAP, else dataset.json in its folder.

    Of a folder labelsTr, dataset.json is one folder up.
    """
    bare = path.name[: -len(ending(path))]
    for description in (path.with_name(bare + ".label"), path.with_name(bare + ".txt")):
        if description.is_file() and _is_snap(description):
            return _snap(description)
    up = [path.parent.parent] if path.parent.name in ("labelsTr", "labelsTs") else []
    for folder in (path.parent, *up):
        if (folder / "dataset.json").is_file():
            return _dataset(folder / "dataset.json"), {}
    return {}, {}


def _is_snap(path: Path) -> bool:
    with open(path, "rb") as file:
        return SNAP in file.read(4096)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise InputError(
            f"{path}: a description of labels must have {MAX_TEXT_BYTES} bytes at most; is it another file?"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a description of labels must be UTF-8 text ({error}); save it again") from error


def _snap(path: Path) -> Described:
    names, colours = {}, {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not (entry := SNAP_LINE.fullmatch(line)):
            raise InputError(
                f'{path}: line {number} must be label, red, green, blue, three numbers and "name", got {line[:80]!r}'
            )
        value, *colour = map(int, entry.groups()[:4])
        if max(colour) > 255 or value in names:
            raise InputError(f"{path}: line {number} must name a new label, with colours up to 255, got {line[:80]!r}")
        if value:
            names[value], colours[value] = entry[5], tuple(colour)
    return check_names(path, names), colours


def _dataset(path: Path) -> dict[int, str]:
    """Names of plain labels; nnU-Net's regions, which are lists of labels, give none."""
    try:
        labels = parse_json(_text(path))["labels"].items()
        old = {int(k): str(v) for k, v in labels if k.isdecimal()}  # of nnU-Net 1 and the Decathlon
        names = old or {v: k for k, v in labels if type(v) is int}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path}: must give "labels" as nnU-Net does, name → label ({error!r}); correct it') from error
    return check_names(path, {value: name for value, name in names.items() if value})
