"""The released weights, installed beside the packages, and those on the Hugging Face Hub."""

from pathlib import Path

from iris_core.case import InputError
from weights.hub import HASHES, NEEDED, OPTIONAL, check_hashes, parse_weights, pull

FOLDER = Path(__file__).parent


def find_weights(name: str | Path) -> Path:
    """A checkpoint folder: a path, the name of released weights ("iris-small"), or owner/name[@revision] on the Hub.

    A folder that holds sha256.json, as `iris pull --output` writes it, is checked against it.
    """
    for candidate in (Path(name), FOLDER / name):
        if (candidate / "config.json").is_file():
            if (candidate / HASHES).is_file():
                check_hashes(candidate, (*NEEDED, *OPTIONAL), str(candidate))
            return candidate
    place = parse_weights(str(name))
    if place and not Path(name).exists():
        return pull(place)
    released = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))
    raise InputError(
        f"{name}: weights must be a checkpoint folder, one of {released} or owner/name[@revision] on the Hub; no"
        " config.json was found"
    )
