"""TaskEmbedding: the task as a value, separate from inference. MemoryBank: one per class seen in training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from iris_core.case import InputError
from iris_core.model.task_encoder import COMPACT, Task
from iris_core.registration import Reference

MEMORIES = 6  # references whose spatial memories and scans an ensemble keeps: time and size grow with them. Ours
POSITIONS = 4096  # of a reference's spatial memory: a window of 96 voxels has 1728. Ours
BANK_DECAY = 0.999  # paper: T_k ← α·T_k + (1 - α)·T_k_new


@dataclass(frozen=True)
class Level:
    """T at another working spacing: coarser, to look where the structures are; finer, to outline them."""

    task: Task
    spacing_mm: float


@dataclass(frozen=True)
class TaskEmbedding:
    """T with what is needed to use it on a query.

    task: K classes, batch of one. values, names: label value and name of each class, in T's order.
    spacing_mm: the working spacing. scheme: the intensity scheme of the reference.
    overviews, detail: the same classes at coarser spacings, finest first, and at a finer one; none on the paper's grid.
    references: the scans with masks that a query is registered to; none where the model does not register.
    """

    task: Task
    values: tuple[int, ...]
    names: tuple[str, ...]
    spacing_mm: float
    scheme: str
    overlapping: bool = False
    overviews: tuple[Level, ...] = ()
    detail: Level | None = None
    references: tuple[Reference, ...] = ()

    def map(self, function: Callable[[Task], Task]) -> "TaskEmbedding":
        """The same embedding with ``function`` applied to T at every spacing."""

        def changed(level: Level) -> Level:
            return replace(level, task=function(level.task))

        overviews, detail = tuple(map(changed, self.overviews)), self.detail and changed(self.detail)
        return replace(self, task=function(self.task), overviews=overviews, detail=detail)

    def to(self, device: torch.device) -> "TaskEmbedding":
        moved = self.map(lambda task: task.map(lambda t: t.to(device)))
        return replace(moved, references=tuple(r.to(device) for r in self.references))


def combine(tasks: list[Task], weights: Tensor) -> Task:
    """Weighted mean of tasks over the same K classes, weights (n, K); a class averages over those that have it.

    Of the windows of one reference, or of several references. Spatial memories are not averaged: they are placed one
    behind the other.
    """
    if len(tasks) == 1:
        return tasks[0]
    share = weights / weights.sum(0, keepdim=True).clamp_min(1e-12)

    def mean(name: str) -> Tensor:
        stacked = torch.stack([getattr(task, name) for task in tasks])
        return (stacked * share.reshape(len(tasks), 1, -1, *[1] * (stacked.ndim - 3)).to(stacked)).sum(0)

    averaged = mean("tokens"), torch.nn.functional.normalize(mean("prototypes"), dim=-1), mean("location")
    remembering = [task for task in tasks if task.memory_keys.shape[1]] or tasks[:1]
    return Task(
        *averaged,
        memory_keys=torch.cat([task.memory_keys for task in remembering], 1),
        memory_masks=torch.cat([task.memory_masks for task in remembering], 2),
        balance=mean("balance"),
    )


def thinned(task: Task) -> Task:
    """With POSITIONS of the spatial memory at most, evenly taken: where windows are many, attending is quadratic."""
    step = -(-task.memory_keys.shape[1] // POSITIONS)
    if step < 2:
        return task
    return replace(task, memory_keys=task.memory_keys[:, ::step], memory_masks=task.memory_masks[:, :, ::step])


def context_ensemble(embeddings: list[TaskEmbedding]) -> TaskEmbedding:
    """The mean of T over references (paper, section 3.5), each class over those that have it; classes go by name.

    MEMORIES spatial memories are kept, one behind the other, those of references that add a class first. The order of
    the references does not matter beyond that. The working spacing is the geometric mean.

    Raises InputError where the references do not go together, see ``shared_classes``.
    """
    first = embeddings[0]
    if len(embeddings) == 1:
        return first
    classes = shared_classes(embeddings)
    kept = _memories(embeddings)

    def mean(tasks: list[Task]) -> Task:
        full = [_with_classes(task, e.names, tuple(classes)) for task, e in zip(tasks, embeddings, strict=True)]
        full = [task if i in kept else task.bare() for i, task in enumerate(full)]
        known = torch.tensor([[float(name in e.names) for name in classes] for e in embeddings])
        return combine(full, known.to(first.task.tokens)).rounded()

    def joined(levels: Sequence[Level]) -> Level:
        return Level(mean([level.task for level in levels]), geometric_mean([level.spacing_mm for level in levels]))

    working = joined([Level(e.task, e.spacing_mm) for e in embeddings])
    details = [e.detail for e in embeddings if e.detail is not None]
    return TaskEmbedding(
        task=working.task,
        values=tuple(classes.values()),
        names=tuple(classes),
        spacing_mm=working.spacing_mm,
        scheme=first.scheme,
        overlapping=first.overlapping,
        overviews=tuple(map(joined, zip(*(e.overviews for e in embeddings), strict=False))),
        detail=joined(details) if len(details) == len(embeddings) else None,
        references=tuple(r for i, e in enumerate(embeddings) if i in kept for r in _references_with(e, tuple(classes))),
    )


def shared_classes(embeddings: list[TaskEmbedding]) -> dict[str, int]:
    """Name → label value of every class of several embeddings, by rising value.

    Raises InputError where two give one class two values, or two classes one value, or where they disagree on
    intensities or on overlapping regions.
    """
    first = embeddings[0]
    classes: dict[str, int] = {}
    for embedding in embeddings:
        for name, value in zip(embedding.names, embedding.values, strict=True):
            if classes.setdefault(name, value) != value:
                raise InputError(
                    f"class {name!r} must have one label value, references give {classes[name]} and {value}"
                )
        if (embedding.scheme, embedding.overlapping) != (first.scheme, first.overlapping):
            raise InputError(
                f"references must agree on intensities and regions, got {embedding.scheme!r} and {first.scheme!r}"
            )
    if len(set(classes.values())) != len(classes):
        raise InputError(f"every class must have a label value of its own, references give {classes}")
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def _memories(embeddings: list[TaskEmbedding]) -> set[int]:
    """Which references keep their spatial memory: at most MEMORIES, chosen so that they show many classes together."""
    kept: list[int] = []
    covered: set[str] = set()
    while len(kept) < min(MEMORIES, len(embeddings)):
        left = [i for i in range(len(embeddings)) if i not in kept]
        best = max(left, key=lambda i: (len(set(embeddings[i].names) - covered), -i))
        kept.append(best)
        covered |= set(embeddings[best].names)
    return set(kept)


def only(embedding: TaskEmbedding, names: list[str]) -> TaskEmbedding:
    """Some of an embedding's classes, in the given order."""
    order = [embedding.names.index(name) for name in names]

    return replace(
        embedding.map(lambda task: _with_classes(task, embedding.names, tuple(names))),
        values=tuple(embedding.values[i] for i in order),
        names=tuple(names),
        references=_references_with(embedding, tuple(names)),
    )


def geometric_mean(values: list[float]) -> float:
    return values[0] if len(values) == 1 else math.exp(sum(map(math.log, sorted(values))) / len(values))


def _with_classes(task: Task, names: tuple[str, ...], wanted: tuple[str, ...]) -> Task:
    """The classes of T in another order; one that T lacks is zero, and unknown (-1) in memory."""
    index = [names.index(name) if name in names else len(names) for name in wanted]

    def pick(part: Tensor, missing: float) -> Tensor:
        return torch.cat([part, torch.full_like(part[:, :1], missing)], 1)[:, index]

    return replace(
        task,
        tokens=pick(task.tokens, 0.0),
        prototypes=pick(task.prototypes, 0.0),
        location=pick(task.location, 0.0),
        memory_masks=pick(task.memory_masks, -1.0),
        balance=pick(task.balance, 0.0),
    )


def _references_with(embedding: TaskEmbedding, wanted: tuple[str, ...]) -> tuple[Reference, ...]:
    """The references of an embedding, with the classes of T in another order."""
    names = embedding.names
    return tuple(r.pick([names.index(n) if n in names else None for n in wanted]) for r in embedding.references)


class MemoryBank:
    """Exponential moving average of T per seen class, keyed 'Dataset/class'. Holds no spatial memory.

    The decay rises from 0 to the paper's α with the number n of updates, min(α, n / (n + 10)), so that what an
    untrained model wrote fades (ours: the paper does not say how the bank begins).
    """

    def __init__(self, entries: dict[str, Task] | None = None, counts: dict[str, int] | None = None) -> None:
        self.entries = entries or {}
        self.counts = counts or {}

    @torch.no_grad()
    def update(self, keys: list[str], task: Task) -> None:
        """Fold in one episode's T (batch of one, classes in the order of ``keys``)."""
        bare = task.bare().map(lambda t: t.float().cpu())
        for k, key in enumerate(keys):
            new = Task.compact(*(getattr(bare, part)[:, k : k + 1].clone() for part in COMPACT))
            n = self.counts.get(key, 0)
            decay = min(BANK_DECAY, n / (n + 10))
            old = self.entries.get(key, new)
            self.entries[key] = Task.compact(
                *(torch.lerp(getattr(new, part), getattr(old, part), decay) for part in COMPACT)
            )
            self.counts[key] = n + 1

    def tensors(self) -> dict[str, Tensor]:
        """Flat, for a safetensors file: 'Dataset/class:part' and 'Dataset/class:count'."""
        parts = {f"{k}:{part}": getattr(t, part).contiguous() for k, t in self.entries.items() for part in COMPACT}
        return parts | {f"{k}:count": torch.tensor(n) for k, n in self.counts.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "MemoryBank":
        """Raises KeyError where a part is missing."""
        keys = dict.fromkeys(name.rsplit(":", 1)[0] for name in tensors)
        entries = {key: Task.compact(*(tensors[f"{key}:{part}"] for part in COMPACT)) for key in keys}
        return cls(entries, {key: int(tensors[f"{key}:count"]) for key in keys})

    def save(self, path: Path) -> None:
        save_file(self.tensors(), path)

    @classmethod
    def load(cls, path: Path) -> "MemoryBank":
        return cls.from_tensors(load_file(path))
