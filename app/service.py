"""The model, loaded once. The only file of the page that calls iris_core's model."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app import gpu
from iris_core import checkpoint, forecast, inference
from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.evaluation.confidence import confidence
from iris_core.pool import Pool, open_pool
from iris_core.prediction import Prediction
from iris_core.registration import Registered
from iris_core.strategies import STRATEGIES, Context, EncodedReference, Plan
from iris_core.strategies.base import QueryTask
from iris_core.strategies.memory_bank import known_classes
from iris_core.strategies.references import encode_all
from iris_core.task_file import load_task, save_task
from nnunet_adapters.raw import RawDataset
from weights import find_weights

CPU = torch.device("cpu")


def pick_device(name: str) -> torch.device:
    """'auto' is a CUDA device if there is one, else Apple's GPU (mps) if there is one, else the CPU."""
    if name == "auto":
        others = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return torch.device(next((kind for kind, there in others.items() if there), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device must be auto, cpu or a device of this machine, got {name!r} ({error})") from error
    return device


class Service:
    """One checkpoint on one device: encodes references, segments queries.

    weights: the name of released weights, a checkpoint folder, or owner/name[@revision] on the Hugging Face Hub.
    device: see ``pick_device``. Raises InputError where there are no such weights or no such device.
    """

    def __init__(self, weights: str = "iris-small", device: str = "auto") -> None:
        self.checkpoint = checkpoint.load(find_weights(weights), pick_device(device))
        self._pace: dict[tuple[int, ...], tuple[float, float, float]] = {}  # what was measured, see forecast
        seconds = partial(gpu.seconds, self.checkpoint.model)
        self._choose = gpu.lend(self._choose_here, seconds)
        self._segment = gpu.lend(self._segment_here, seconds)
        self._carried = gpu.lend(self._carried_here, seconds)
        self._confidence = gpu.lend(self._confidence_here, seconds)
        self._forecast = gpu.lend(self._forecast_here, seconds)

    def plan(
        self,
        strategy: str,
        references: Sequence[Case] = (),
        encoded: Sequence[EncodedReference] = (),
        **settings: Any,
    ) -> Plan:
        """Let a strategy make the task of references, or of classes that the weights know: a function of the query.

        encoded: further references, as ``read_task`` and ``pool`` give them. settings: the other fields of Context.
        strategy: 'auto' is one_shot for one reference, ensemble for several, memory_bank for classes. Where the
        GPU is lent, a strategy runs anew for each query, and its ``progress`` is not called. Raises InputError unless
        there are either references or classes, and for a strategy that there is not.
        """
        if bool(references or encoded) == bool(classes := settings.get("classes", ())):
            raise InputError(
                "show references with their masks, saved tasks or a pool; or name classes that the weights know;"
                f" got {len(references)} references, {len(encoded)} encoded before, {len(classes)} classes"
            )
        if strategy == "auto":
            n = len(references) + len(encoded)
            strategy = "memory_bank" if classes else "one_shot" if n == 1 else "ensemble"
        if strategy not in STRATEGIES:
            raise InputError(f"strategy must be auto or one of {', '.join(STRATEGIES)}, got {strategy!r}")
        if gpu.LENT:
            settings.pop("progress", None)
            sent = [EncodedReference(k.name, k.embedding.to(CPU), k.descriptor) for k in encoded]
            return lambda query: self._choose(strategy, references, sent, settings, query)
        c = self.checkpoint
        return STRATEGIES[strategy](Context(c.model, references, encoded, bank=c.bank, training=c.training, **settings))

    keeps = not gpu.LENT  # whether what encode_each gives is of use: where the GPU is lent, a strategy encodes anew

    def encode_each(
        self, references: Sequence[Case], grid: str, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> Sequence[EncodedReference]:
        """References encoded once each, to be given to ``plan`` as ``encoded``."""
        return encode_all(Context(self.checkpoint.model, references, grid=grid, progress=progress))

    def explain(self, embedding: TaskEmbedding, query: Case) -> dict[str, np.ndarray]:
        """Labels on the query's own grid, of registration alone and of the model without it."""
        embedding = embedding.to(CPU) if gpu.LENT else embedding
        carried = {"registration alone": self._carried(embedding, query)} if embedding.references else {}
        return carried | {"the model alone": self.segment(replace(embedding, references=()), query)}

    def encode(
        self, *references: Case, classes: Sequence[str] = (), grid: str = "auto", scheme: str | None = None
    ) -> TaskEmbedding:
        """The task of one reference, the mean of several; or, without any, that of classes that the weights know."""
        return self.plan("auto", references, classes=classes, grid=grid, scheme=scheme)(None).embedding

    def classes(self) -> dict[str, dict[str, Any]]:
        """The classes that the weights know: name → updates in training, spacing in mm, scheme of intensities."""
        return known_classes(self.checkpoint.bank, self.checkpoint.training)

    def pool(
        self,
        dataset: RawDataset,
        folder: Path | None,
        grid: str,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> Pool:
        """The cases of a raw dataset as references, from the index in ``folder``, which is brought up to date.

        folder: by default one below the user's cache.
        """
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iris" / "pools"
        folder = folder or cache / f"{dataset.name}-{self.checkpoint.sha256[:12]}-{grid}"
        sources = {name: dataset.source(name) for name in sorted(dataset.files)}
        return open_pool(folder, self.checkpoint, dataset.name, sources, dataset.case, grid, dataset.scheme, progress)

    def confidence(
        self,
        references: Sequence[Case],
        query: Case,
        labels: np.ndarray,
        embedding: TaskEmbedding,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> dict[str, float]:
        """Class name → how well the roles swap: an estimate of quality where there is no truth.

        progress: called before every window, may raise to end it; not where the GPU is lent.
        """
        if gpu.LENT:
            return self._confidence(references, query, labels, embedding)
        return confidence(self.checkpoint.model, references, query, labels, embedding, progress)

    def write_task(self, path: Path | str, embedding: TaskEmbedding, made_from: tuple[str, ...]) -> None:
        """Keep a task as a file. made_from: names of the references' files, for people who read it. See save_task."""
        save_task(Path(path), embedding, self.checkpoint.sha256, made_from)

    def read_task(self, path: Path | str) -> EncodedReference:
        """A task file, to be given to ``plan`` as one of ``encoded``."""
        path = Path(path)
        return EncodedReference(path.name, load_task(path, self.checkpoint.model, self.checkpoint.sha256))

    def segment(
        self, embedding: TaskEmbedding, query: Case, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> np.ndarray:
        """Labels on the query's own grid. progress: called with windows done, all; not where the GPU is lent."""
        if gpu.LENT:
            return self._segment(embedding.to(CPU), query)
        return inference.segment(self.checkpoint.model, embedding, query, progress)

    def predict(self, embedding: TaskEmbedding, query: Case) -> Prediction:
        """Labels and probabilities on the query's own grid. Needs a GPU that is not lent, or none."""
        return inference.predict(self.checkpoint.model, embedding, query)

    def forecast(self, embedding: TaskEmbedding, query: Case) -> tuple[float, float, float]:
        """Seconds, GiB, and seconds if the coarse pass should be of no use. See app/checks.py."""
        return self._forecast(embedding.to(CPU) if gpu.LENT else embedding, query)

    # What follows runs in a process that has the GPU, where one is lent: see gpu.lend.

    def _choose_here(
        self,
        strategy: str,
        references: Sequence[Case],
        encoded: Sequence[EncodedReference],
        settings: dict[str, Any],
        query: Case | None,
    ) -> QueryTask:
        c = self.checkpoint
        context = Context(c.model, references, encoded, bank=c.bank, training=c.training, **settings)
        query_task = STRATEGIES[strategy](context)(query)
        return replace(query_task, embedding=query_task.embedding.to(CPU))

    def _segment_here(self, embedding: TaskEmbedding, query: Case) -> np.ndarray:
        return inference.segment(self.checkpoint.model, embedding, query)

    def _carried_here(self, embedding: TaskEmbedding, query: Case) -> np.ndarray:
        return inference.carried_labels(self.checkpoint.model, embedding, query)

    def _confidence_here(
        self, references: Sequence[Case], query: Case, labels: np.ndarray, embedding: TaskEmbedding
    ) -> dict[str, float]:
        return confidence(self.checkpoint.model, references, query, labels, embedding)

    def _forecast_here(self, embedding: TaskEmbedding, query: Case) -> tuple[float, float, float]:
        model = self.checkpoint.model
        work = forecast.work(model, embedding, query)
        voxels, voxels_if_lost = (sum(map(math.prod, shapes)) for shapes in (work.windows, work.if_lost))
        shape = max(work.windows, key=math.prod)
        sizes = (math.prod(shape).bit_length(), work.voxels.bit_length(), work.samples.bit_length())
        pace = work.k, work.registrations, embedding.task.memory_keys.shape[1], *sizes
        if pace not in self._pace:
            device = next(model.parameters()).device
            once, found = 0.0, list[Registered]()
            if work.registrations:
                once, registered = forecast.registration_seconds(embedding, device)
                found = [registered] * work.registrations
            window = forecast.window_seconds(model, embedding, shape, found) / math.prod(shape)
            self._pace[pace] = window, forecast.voxel_seconds(embedding, query), once * work.registrations
        window, voxel, registering = self._pace[pace]
        volume = voxel * work.voxels + registering
        return window * voxels + volume, work.bytes(model) / 2**30, window * voxels_if_lost + volume
