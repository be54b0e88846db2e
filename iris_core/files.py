"""How files are written: whole or not at all, by one process at a time where that matters; and JSON."""

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from iris_core.case import InputError


def _here() -> str:
    """Where a process' number means this process: a machine, whose name nobody need learn; on it, a container."""
    namespace = Path("/proc/self/ns/pid")
    place = platform.node() + (str(namespace.readlink()) if namespace.is_symlink() else "")
    return "iris-" + hashlib.sha256(place.encode()).hexdigest()[:12]


HERE = _here()  # with a process' number in names of what is being written
FOLDERS = 1024  # that are remembered as looked through: a page has a new one for every result


class WriteError(InputError):
    """What was to be written cannot be: a disk is full, a folder may only be read."""


def unwritten(path: Path, error: Exception) -> WriteError:
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:200]
    return WriteError(f"{path}: cannot be written: {reason}; make room, or choose another place")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write(temporary)`` make a file or a folder of the same name in a hidden folder beside ``path``, then move
    it, so that nothing half-written stays: a library's own temporary files neither. What a killed process left beside
    it goes with the first write into a folder. A folder at ``path`` must be new or empty.

    Raises WriteError where it cannot be written.
    """
    hidden = path.with_name(f".{HERE}-{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        forget_the_dead(path.parent.resolve())
        try:
            _remove(hidden)  # by a process of the same number, long ago
            hidden.mkdir()
            write(hidden / path.name)
            os.replace(hidden / path.name, path)
        finally:
            _remove(hidden)
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error


def require_new(folder: Path) -> None:
    """Raise InputError unless a folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: must be a new or an empty folder; choose another --output")


@functools.lru_cache(FOLDERS)
def forget_the_dead(folder: Path) -> None:
    """Remove what processes of this machine left half-written that are there no more. Once for each folder, unless it
    cannot be listed."""
    paths: list[Path] = []
    with suppress(OSError):
        paths += folder.iterdir() if os.name == "posix" else ()
    for path in paths:
        pid = re.match(rf"\.?{HERE}-(\d{{1,9}})-", path.name)
        if pid and not _alive(int(pid[1])):
            with suppress(OSError):
                _remove(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing. Raises WriteError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(folder, error) from error


@contextmanager
def held(folder: Path, wait_s: float = 0) -> Iterator[None]:
    """Nobody else is in this block for the folder, on this machine. Raises InputError where somebody is, for longer
    than ``wait_s``; WriteError where the folder cannot be written to."""
    lock = FileLock(folder / ".lock", timeout=wait_s)
    make_folder(folder)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{folder}: another process writes there; wait for it, or choose another folder") from error
    except OSError as error:
        raise unwritten(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError where it is none."""
    return parse_json(path.read_text("utf-8"))


def parse_json(text: str) -> Any:
    """What JSON says. Raises ValueError where it is none; also where it is nested too deep for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep to be read") from error
