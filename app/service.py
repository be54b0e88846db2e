"""The model, loaded once. The only file of the page that calls iris_core's model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from iris_core import checkpoint, inference
from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.evaluation.confidence import confidence
from iris_core.strategies import STRATEGIES, Given, Plan
from iris_core.task_file import TaskFile, load_task, save_task
from weights import find_weights


def pick_device(name: str) -> torch.device:
    """'auto' is a CUDA device if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device must be auto, cpu or a device of this machine, got {name!r} ({error})") from error
    return device


class Service:
    """One checkpoint on one device."""

    def __init__(self, weights: str = "iris-small", device: str = "auto") -> None:
        self.checkpoint = checkpoint.load(find_weights(weights), pick_device(device))

    def plan(self, strategy: str, references: Sequence[Case] = (), classes: Sequence[str] = (), **settings) -> Plan:
        """What a strategy makes of references or known classes: T for every query. settings: of Given."""
        known = self.checkpoint
        return STRATEGIES[strategy](Given(known.model, references, classes, known.bank, known.training, **settings))

    def encode(self, *references: Case, grid: str = "auto", scheme: str | None = None) -> TaskEmbedding:
        """The task of one reference, or the mean of several."""
        strategy = "one_shot" if len(references) == 1 else "ensemble"
        return self.plan(strategy, references, grid=grid, scheme=scheme)(references[0]).embedding

    def confidence(
        self, references: Sequence[Case], query: Case, labels: np.ndarray, embedding: TaskEmbedding
    ) -> dict[str, float]:
        """Class name → how well the roles swap: an estimate of quality where there is no truth."""
        return confidence(self.checkpoint.model, references, query, labels, embedding)

    def write_task(self, path: Path, embedding: TaskEmbedding, made_from: tuple[str, ...]) -> None:
        save_task(path, embedding, self.checkpoint.sha256, made_from)

    def read_task(self, path: Path) -> TaskFile:
        return load_task(path, self.checkpoint.model, self.checkpoint.sha256)

    def segment(
        self, embedding: TaskEmbedding, query: Case, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> np.ndarray:
        return inference.segment(self.checkpoint.model, embedding, query, progress)
