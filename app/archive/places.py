"""Files by path or by address (s3://, gs://, hf://, file://), through fsspec. A path is used where it lies."""

import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from iris_core.case import InputError
from iris_core.files import write_atomically
from nnunet_adapters.folder import expand_queries
from nnunet_adapters.headers import is_scan

SCHEMES = ("s3", "gs", "hf", "file")
DRIVERS = {"s3": "'.[scale]'", "gs": "gcsfs", "hf": "huggingface-hub"}  # what to pip install
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # a drive, c:/, has one letter
CONTENT_TAGS = ("ETag", "etag", "md5Hash", "blob_id")  # S3; Google; Google; the Hugging Face Hub
MAX_BYTES = 2**34  # of one scan: 2**31 voxels (see headers.py) of 8 bytes
MAX_FILES = 2**16  # of one DICOM series


def address(text: str | Path) -> str:
    """A path and ``file://`` as a whole path, any other address with its two slashes, which a Path folds to one.

    Raises InputError for a scheme that is not in SCHEMES: a manifest comes from others, and fsspec knows schemes that
    run programs or read other machines.
    """
    match = ADDRESS.fullmatch(str(text))
    if not match:
        return str(Path(text).absolute()) if str(text) else ""
    scheme, rest = match[1].lower(), match[2]
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise InputError(f"{text}: an address must begin with {known}, or be a path; got {scheme}://")
    if not rest.strip("/"):
        raise InputError(f"{text}: must end in the name of a file or a folder")
    return f"/{rest}" if scheme == "file" else f"{scheme}://{rest}"


def is_remote(place: str) -> bool:
    return "://" in place


def name_of(place: str) -> str:
    """The last part of an address or path. Raises InputError where there is none to name a file after."""
    name = PurePosixPath(place).name if is_remote(place) else Path(place).resolve().name
    if not name or name == ".." or "\0" in name:
        raise InputError(f"{place}: must end in the name of a scan, got {name!r}")
    return name


def within(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


@contextmanager
def _system(place: str) -> Iterator[tuple]:
    """(file system, path in it) of an address. Raises FileNotFoundError, or an InputError that names it.

    Settings and credentials are the environment's (AWS_*, GOOGLE_*, HF_TOKEN), as each library documents.
    """
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(place)
    except ImportError as error:
        needed = DRIVERS[place.partition("://")[0]]
        raise InputError(f"{place}: needs a package that is not installed: pip install {needed}") from error
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # each library raises its own
        raise InputError(f"{place}: cannot be reached: {type(error).__name__}: {error}") from error


def identity(place: str) -> str:
    """Changes when what lies there does: size and time of a file, what a store says of an object.

    Raises FileNotFoundError where nothing lies there.
    """
    if is_remote(place):
        with _system(place) as (system, path):
            info = system.info(path)
            files = {path: info} if info["type"] == "file" else system.find(path, detail=True)
            stamps = [[name, entry["size"], _tag(system, name, entry)] for name, entry in sorted(files.items())]
    else:
        files = sorted(p for p in Path(place).rglob("*") if p.is_file()) if Path(place).is_dir() else [Path(place)]
        stamps = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _tag(system, name: str, entry: dict) -> str:
    """What the store says of an object's content: the same whether it was asked for it or listed it."""
    return next((str(entry[tag]) for tag in CONTENT_TAGS if entry.get(tag)), None) or system.ukey(name)


def fetch(place: str, folder: Path) -> Path:
    """Bring a scan, or a folder of one DICOM series, into ``folder``; a path stays where it is. Sizes are checked."""
    if not is_remote(place):
        return Path(place)
    target = folder / name_of(place)
    with _system(place) as (system, path):
        if system.isfile(path):
            _check_size(place, [system.info(path)])
            system.get_file(path, str(target))
            return target
        files = [entry for entry in system.ls(path, detail=True) if entry["type"] == "file"]
        if not files:
            raise FileNotFoundError(f"{place}: no such file")
        _check_size(place, files)
        target.mkdir()
        for entry in files:
            if name := PurePosixPath(entry["name"]).name:  # some stores keep an empty object for the folder
                system.get_file(entry["name"], str(target / name))
    return target


def _check_size(place: str, files: list[dict]) -> None:
    size = sum(entry["size"] or 0 for entry in files)
    if size > MAX_BYTES or len(files) > MAX_FILES:
        raise InputError(f"{place}: a scan may have {MAX_BYTES >> 30} GiB in {MAX_FILES} files, got {size} B")


def read(place: str) -> bytes | None:
    """The bytes of a file, None where there is none. For what was written here: it is read whole."""
    try:
        if is_remote(place):
            with _system(place) as (system, path):
                return system.cat_file(path)
        return Path(place).read_bytes()
    except FileNotFoundError:
        return None


def put(file: Path, place: str) -> None:
    """Copy a file to where it belongs, whole or not at all."""
    if is_remote(place):
        with _system(place) as (system, path):
            system.put_file(str(file), path)
    else:
        write_atomically(Path(place), lambda temporary: shutil.copyfile(file, temporary))


def opened(place: str):
    """A file to read from, as a context. Raises FileNotFoundError."""
    with _system(place) as (system, path):
        return system.open(path, "rb")


def needed(module: str, what: str):
    """A module of the extra ``scale``. Raises InputError with the extra's name where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what} needs {module}, which is not installed: pip install '.[scale]'") from error


def scans_in(places: tuple[str, ...]) -> list[str]:
    """As expand_queries, of addresses too: a folder becomes the scans in it, or is one DICOM series."""
    found = []
    for place in places:
        if not is_remote(place):
            found += [str(path) for path in expand_queries((Path(place),))]
            continue
        try:
            with _system(place) as (system, path):
                files = [] if system.isfile(path) else [e["name"] for e in system.ls(path, detail=True)]
        except FileNotFoundError as error:
            raise InputError(f"{place}: no such file or folder") from error
        names = sorted(name for name in map(os.path.basename, files) if name and not name.startswith("."))
        scans = [name for name in names if is_scan(Path(name))]
        if scans and any(name.lower().endswith((".dcm", ".ima")) for name in names):
            raise InputError(f"{place}: must hold scans or one DICOM series, found both; name the files to segment")
        found += [within(place, name) for name in scans] or [place]
    return found
