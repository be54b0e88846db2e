"""A checkpoint is a folder: model.safetensors (float16), config.json, bank.safetensors, training.json."""

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from iris_core.case import InputError
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import Iris, IrisConfig


@dataclass(frozen=True)
class Checkpoint:
    """A model ready for inference and what is known of it.

    training: what it was trained on, as written by the trainer (datasets with their training and validation cases).
    sha256: of model.safetensors.
    """

    model: Iris
    bank: MemoryBank
    training: dict
    sha256: str


def write_atomically(path: Path, write) -> None:
    """Let ``write(temporary)`` make a file beside ``path``, then rename it, so that no half-written file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def save(folder: Path, model: Iris, bank: MemoryBank, training: dict) -> None:
    """Write the checkpoint folder; float16 weights."""
    weights = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda p: save_file(weights, p))
    write_atomically(folder / "bank.safetensors", bank.save)
    write_json(folder / "config.json", model.config.to_dict())
    write_json(folder / "training.json", training)


def load(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder. Raises InputError if a file is missing, damaged or of another model."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: a weights folder must hold {name}; none was found")
    try:
        config = IrisConfig(**json.loads((folder / "config.json").read_text("utf-8")))
        model = Iris(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        bank = MemoryBank.load(folder / "bank.safetensors") if (folder / "bank.safetensors").is_file() else MemoryBank()
        record = folder / "training.json"
        training = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    except (TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: not usable as Iris weights: {error}") from error
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    model = model.to(device=device, memory_format=torch.channels_last_3d).eval()
    return Checkpoint(model, bank, training, digest)
