"""TaskEmbedding: the task as a value, separate from inference. MemoryBank: one per class seen in training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from iris_core.model.task_encoder import COMPACT, Task

BANK_DECAY = 0.999  # paper: T_k ← α·T_k + (1 - α)·T_k_new


@dataclass(frozen=True)
class Overview:
    """T at a coarser working spacing, for looking where the structures are."""

    task: Task
    spacing_mm: float


@dataclass(frozen=True)
class TaskEmbedding:
    """T with what is needed to use it on a query.

    task: K classes, batch of one. values, names: label value and name of each class, in T's order.
    spacing_mm: the working spacing. scheme: the intensity scheme of the reference.
    overviews: the same classes at coarser spacings, finest first; none on the paper's grid.
    """

    task: Task
    values: tuple[int, ...]
    names: tuple[str, ...]
    spacing_mm: float
    scheme: str
    overlapping: bool = False
    overviews: tuple[Overview, ...] = ()


def combine(tasks: list[Task], weights: Tensor) -> Task:
    """Weighted mean of tasks over the same K classes, weights (n, K); a class averages over those that have it.

    Used for the windows of one reference. Spatial memories are not averaged: they are placed one behind the other.
    """
    if len(tasks) == 1:
        return tasks[0]
    share = weights / weights.sum(0, keepdim=True).clamp_min(1e-12)

    def mean(name: str) -> Tensor:
        stacked = torch.stack([getattr(task, name) for task in tasks])
        return (stacked * share.reshape(len(tasks), 1, -1, *[1] * (stacked.ndim - 3)).to(stacked)).sum(0)

    where, windows = [], 0
    for task in tasks:  # windows are numbered through
        where.append(task.memory_where + task.memory_where.new_tensor([0, 0, 0, windows]))
        windows += task.atlas.shape[2]
    return Task(
        tokens=mean("tokens"),
        prototypes=torch.nn.functional.normalize(mean("prototypes"), dim=-1),
        location=mean("location"),
        memory_keys=torch.cat([task.memory_keys for task in tasks], 1),
        memory_masks=torch.cat([task.memory_masks for task in tasks], 2),
        memory_where=torch.cat(where, 1),
        atlas=torch.cat([task.atlas for task in tasks], 2),
    )


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
        bare = task.without_memory().map(lambda t: t.float().cpu())
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
