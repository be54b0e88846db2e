"""A checkpoint is a folder: model.safetensors (float16), config.json, bank.safetensors, training.json."""

import functools
import hashlib
import json
import math
import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from iris_core.case import LARGEST_MM, SMALLEST_MM, InputError
from iris_core.embeddings import MemoryBank
from iris_core.intensity import SCHEMES
from iris_core.model.iris import Iris, IrisConfig


def _here() -> str:
    """Where a process' number means this process: a machine, whose name nobody need learn; on it, a container."""
    namespace = Path("/proc/self/ns/pid")
    place = platform.node() + (str(namespace.readlink()) if namespace.is_symlink() else "")
    return "iris-" + hashlib.sha256(place.encode()).hexdigest()[:12]


HERE = _here()  # with a process' number in names of what is being written
FOLDERS = 1024  # that are remembered as looked through: a page has a new one for every result


@dataclass(frozen=True)
class Checkpoint:
    """A model ready for inference and what is known of it.

    training: what it was trained on, as written by the trainer (datasets with their training and validation cases).
    sha256: of model.safetensors.
    """

    model: Iris
    bank: MemoryBank
    training: dict[str, Any]
    sha256: str


class WriteError(InputError):
    """What was to be written cannot be: a disk is full, a folder may only be read."""


def _unwritten(path: Path, error: Exception) -> WriteError:
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:200]
    return WriteError(f"{path}: cannot be written: {reason}; make room, or choose another place")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write(temporary)`` make a file or a folder beside ``path``, then rename it, so that nothing half-written
    stays; what a killed process left beside it goes with the first write into a folder. A folder must be new or empty.

    Raises WriteError where it cannot be written.
    """
    kind = "".join(path.suffixes[-2:])[-20:]  # what is written goes by it
    temporary = path.with_name(f".{HERE}-{os.getpid()}-{threading.get_ident()}{kind}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        forget_the_dead(path.parent.resolve())
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            _remove(temporary)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error


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


@contextmanager
def held(folder: Path, wait_s: float = 0) -> Iterator[None]:
    """Nobody else is in this block for the folder, on this machine. Raises InputError where somebody is, for longer
    than ``wait_s``; WriteError where the folder cannot be written to."""
    lock = FileLock(folder / ".lock", timeout=wait_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{folder}: another process writes there; wait for it, or choose another folder") from error
    except OSError as error:
        raise _unwritten(folder, error) from error
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


def save(folder: Path, model: Iris, bank: MemoryBank, training: dict[str, Any]) -> None:
    """Write the checkpoint folder; float16 weights."""
    weights = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda p: save_file(weights, p))
    write_atomically(folder / "bank.safetensors", bank.save)
    write_json(folder / "config.json", model.config.to_dict())
    write_json(folder / "training.json", training)


def load(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder. Raises InputError if a file is missing, damaged or of another model.

    A configuration is believed only as far as the weights bear it out, before memory is taken for its model.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: a weights folder must hold {name}; none was found")
    try:
        config = IrisConfig(**read_json(folder / "config.json"))
        weights = load_file(folder / "model.safetensors")
        if config.least_weights > (there := sum(part.numel() for part in weights.values())):
            raise ValueError(f"its config.json is of a model of {config.least_weights} weights or more, it has {there}")
        if not all(math.isfinite(part.sum(dtype=torch.float64)) for part in weights.values()):
            raise ValueError("its weights must be finite numbers")
        model = Iris(config)
        model.load_state_dict(weights)
        bank = MemoryBank.load(folder / "bank.safetensors") if (folder / "bank.safetensors").is_file() else MemoryBank()
        record = folder / "training.json"
        training = _training(read_json(record)) if record.is_file() else {}
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: not usable as Iris weights: {error}") from error
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    model.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
    return Checkpoint(model.eval(), bank, training, digest)


def _training(record: dict[str, Any]) -> dict[str, Any]:
    """training.json, if it is as far as it is used what the trainer writes. Raises an error of Python's where not."""
    for name, seen in record.get("datasets", {}).items():
        sizes = seen.get("classes", {}).values()
        usable = all(isinstance(mm, int | float) and SMALLEST_MM <= mm <= LARGEST_MM for mm in sizes)
        cases = [case for part in ("train", "val") for case in list(seen.get(part, ()))]
        if not usable or seen.get("scheme", SCHEMES[0]) not in SCHEMES or not all(isinstance(c, str) for c in cases):
            raise ValueError(f"training.json does not give sizes in mm, a scheme and names of cases for {name!r}")
    return record
