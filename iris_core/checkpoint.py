"""A checkpoint is a folder: model.safetensors (float16), config.json, bank.safetensors, training.json."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from iris_core.case import LARGEST_MM, SMALLEST_MM, InputError
from iris_core.embeddings import MemoryBank
from iris_core.files import read_json, write_atomically, write_json
from iris_core.intensity import SCHEMES
from iris_core.model.iris import Iris, IrisConfig


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
