"""The released weights, installed beside the packages."""

from pathlib import Path

from iris_core.case import InputError

FOLDER = Path(__file__).parent


def find_weights(name: str | Path) -> Path:
    """A checkpoint folder: a path, or the name of released weights ("iris-small")."""
    for candidate in (Path(name), FOLDER / name):
        if (candidate / "config.json").is_file():
            return candidate
    released = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))
    raise InputError(f"{name}: weights must be a checkpoint folder or one of {released}; no config.json was found")
