"""A TaskEmbedding as a file: kept, sent and used without the reference it was made of."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from iris_core.case import InputError
from iris_core.embeddings import Level, TaskEmbedding
from iris_core.files import parse_json, write_atomically
from iris_core.intensity import SCHEMES
from iris_core.model.iris import Iris
from iris_core.model.task_encoder import Task
from iris_core.reference_file import from_tensors, to_tensors

MAX_BYTES = 2**30
MAX_CLASSES = 1024


def save_task(path: Path, embedding: TaskEmbedding, weights_sha256: str, made_from: tuple[str, ...]) -> None:
    """Write a task file: float16 tensors, what a query is registered to in bytes, and as JSON in the header what they
    mean; no folders. It holds a small picture of the reference: some 50³ cells of the whole scan and as many of what
    lies around the structures, which of a small scan are its voxels. Who may not see the scan may not see it either.

    made_from: file names of the references; folders in them are left out.
    """
    levels = {"": embedding.task} | {f"overview{i}/": o.task for i, o in enumerate(embedding.overviews)}
    if embedding.detail:
        levels["detail/"] = embedding.detail.task
    tensors = {
        f"{at}{part.name}": getattr(task, part.name).half().cpu().contiguous()
        for at, task in levels.items()
        for part in fields(Task)
    }
    reference_tensors, references = to_tensors(embedding.references)
    tensors |= reference_tensors
    about = {
        "references": references,
        "weights_sha256": weights_sha256,
        "values": embedding.values,
        "names": embedding.names,
        "spacing_mm": embedding.spacing_mm,
        "overviews_mm": [o.spacing_mm for o in embedding.overviews],
        "detail_mm": [embedding.detail.spacing_mm] if embedding.detail else [],
        "scheme": embedding.scheme,
        "overlapping": embedding.overlapping,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_from": [Path(name).name for name in made_from],
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {"iris_task": json.dumps(about)}))


def read_about(path: Path) -> dict:
    """What a task file's header says of it: names of classes, weights_sha256. Raises InputError where there is none."""
    try:
        with safe_open(path, "pt") as stored:
            about = parse_json((stored.metadata() or {})["iris_task"])
            names, weights = list(map(str, about["names"])), str(about["weights_sha256"])
            return about | {"names": names, "weights_sha256": weights}
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not usable as a task file: {error}") from error


def load_task(path: Path, model: Iris, weights_sha256: str) -> TaskEmbedding:
    """Read a task file. Raises InputError where it is damaged, of other weights, or not what this model makes."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        with safe_open(path, "pt") as stored:
            about = parse_json((stored.metadata() or {})["iris_task"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        if "references" not in about:
            raise ValueError("it was made before 0.5.0; encode the reference again")
        if about["weights_sha256"] != weights_sha256:
            raise InputError(
                f"{path}: a task file goes with the weights that made it, {str(about['weights_sha256'])[:12]}…,"
                f" these are {weights_sha256[:12]}…; encode the reference again or choose those weights"
            )
        values, names = tuple(map(int, about["values"])), tuple(map(str, about["names"]))
        finer, n = about["detail_mm"][:1], len(about["overviews_mm"])
        spacings = [float(s) for s in (about["spacing_mm"], *about["overviews_mm"], *finer)]
        different = len(values) == len(names) == len(set(values)) == len(set(names))
        if not 0 < len(values) <= MAX_CLASSES or not different or not all(0 < abs(v) < 2**31 for v in values):
            raise ValueError(f"class values must differ, be 32-bit, not 0, and have a name each, got {values}, {names}")
        if not all(0.001 <= s <= 1000 for s in spacings) or about["scheme"] not in SCHEMES:
            raise ValueError(f"working spacings {spacings} mm, intensity scheme {about['scheme']!r}")
        levels = ["", *(f"overview{i}/" for i in range(n)), *["detail/"][: len(finer)]]
        tasks = [Task(*(tensors.pop(f"{at}{part.name}").float() for part in fields(Task))) for at in levels]
        references = from_tensors(tensors, about["references"], len(values))
        if tensors:
            raise ValueError(f"unknown parts {sorted(tensors)[:5]}")
        for task in tasks:
            _check(task, model, len(values))
        working, *others = (Level(t, s) for t, s in zip(tasks, spacings, strict=True))
        return TaskEmbedding(
            task=working.task,
            values=values,
            names=names,
            spacing_mm=working.spacing_mm,
            scheme=str(about["scheme"]),
            overlapping=bool(about["overlapping"]),
            overviews=tuple(others[:n]),
            detail=others[n] if finer else None,
            references=references,
        )
    except InputError:
        raise
    except (
        ArithmeticError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: not usable as a task file: {error}") from error


def _check(task: Task, model: Iris, k: int) -> None:
    """Raises ValueError where a part has not the shape that the model makes."""
    config = model.config
    n = task.memory_keys.shape[1]
    levels = len(model.matched)
    expected = {
        "tokens": (1, k, config.query_tokens + 1, config.widths[model.task_level]),
        "prototypes": (1, k, levels, 2, config.prototype_width),
        "location": (1, k, 10 if config.location_prior else 0),
        "memory_keys": (1, n, config.memory_width if n else task.memory_keys.shape[2]),
        "memory_masks": (1, k, n),
        "balance": (1, k, 3),
    }
    for name, shape in expected.items():
        found = getattr(task, name)
        if tuple(found.shape) != shape or not torch.isfinite(found).all():
            raise ValueError(f"{name} must be {shape} finite numbers, got {tuple(found.shape)}")
