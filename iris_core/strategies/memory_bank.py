"""No reference at all: classes that the weights have seen in training, by name (paper, section 3.4)."""

from typing import Any

import torch

from iris_core.case import InputError
from iris_core.embeddings import MemoryBank, TaskEmbedding, geometric_mean
from iris_core.model.task_encoder import COMPACT, Task
from iris_core.strategies.base import Context, Plan, always


def known_classes(bank: MemoryBank, training: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """'Dataset/class' → {updates, spacing_mm, scheme} of every class that can be asked for."""
    found = {}
    for key, count in sorted(bank.counts.items()):
        dataset, _, name = key.partition("/")
        seen = training.get("datasets", {}).get(dataset, {})
        if "scheme" in seen and name in seen.get("classes", {}):
            found[key] = {"updates": count, "spacing_mm": seen["classes"][name], "scheme": seen["scheme"]}
    return found


def memory_bank(context: Context) -> Plan:
    """Classes of the bank with the label values 1, 2, … in their order. Raises InputError for one it does not hold."""
    known, names = known_classes(context.bank, context.training), tuple(context.classes)
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise InputError(
            f"memory_bank needs different classes that the weights know, got {list(names)}; `iris classes` lists them"
        )
    schemes = {known[name]["scheme"] for name in names}
    if len(schemes) > 1:
        raise InputError(f"classes must share one intensity scheme, {list(names)} have {sorted(schemes)}")
    parts = [torch.cat([getattr(context.bank.entries[name], part) for name in names], 1) for part in COMPACT]
    embedding = TaskEmbedding(
        task=Task.compact(*parts).rounded(),
        values=tuple(range(1, len(names) + 1)),
        names=names,
        spacing_mm=geometric_mean([known[name]["spacing_mm"] for name in names]),
        scheme=schemes.pop(),
    )
    return always(embedding)
