"""What every strategy takes and gives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import MemoryBank, TaskEmbedding
from iris_core.model.iris import Iris


@dataclass(frozen=True)
class Options:
    """Settings of strategies; each takes what concerns it.

    top_k: references that retrieval averages for a class. seed: of retrieval's first reference. steps, rate: of
    in-context tuning (Adam). Ours, the paper has none of them.
    """

    top_k: int = 3
    seed: int = 0
    steps: int = 40
    rate: float = 0.01

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.seed < 0 or self.steps < 0 or not 0 < self.rate < math.inf:
            raise InputError(
                "top_k must be 1 or more, seed and steps 0 or more and rate above 0, got"
                f" {self.top_k}, {self.seed}, {self.steps}, {self.rate}"
            )


@dataclass(frozen=True)
class EncodedReference:
    """A reference as the model keeps it: its task embedding, without the scan.

    name: of its file or case. descriptor: (C,), of its whole image, which only image retrieval needs; or None.
    """

    name: str
    embedding: TaskEmbedding
    descriptor: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """The model, the references and the settings that a strategy makes a task of.

    references: cases with labels. encoded: further references, from task files or a pool.
    classes: names 'Dataset/class' of the memory bank, used by memory_bank alone; bank, training: as in the checkpoint.
    grid: 'auto' chooses the working spacing from the references, 'paper' is 1.5 mm. scheme: the intensity scheme, None
    detects it. progress: called with steps done and all, by strategies that take long before the first query.
    """

    model: Iris
    references: Sequence[Case] = ()
    encoded: Sequence[EncodedReference] = ()
    classes: Sequence[str] = ()
    bank: MemoryBank = field(default_factory=MemoryBank)
    training: dict[str, Any] = field(default_factory=dict)
    grid: str = "auto"
    scheme: str | None = None
    options: Options = Options()
    progress: Callable[[int, int], None] = lambda done, of: None

    def require_references(self, strategy: str) -> None:
        if not self.references and not self.encoded:
            raise InputError(f"{strategy} needs at least one reference with its mask, got none")


@dataclass(frozen=True)
class QueryTask:
    """The task embedding that a strategy makes for one query.

    notes: class name → which references it was made of and why, for strategies that choose; else empty.
    """

    embedding: TaskEmbedding
    notes: dict[str, str] = field(default_factory=dict)


Plan = Callable[[Case | None], QueryTask]  # a query → its task; None where the strategy does not look at the query
Strategy = Callable[[Context], Plan]


def always(embedding: TaskEmbedding) -> Plan:
    """The plan of a strategy that does not look at the query."""
    return lambda query: QueryTask(embedding)
