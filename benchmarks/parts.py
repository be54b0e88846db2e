"""What each part of the answer is worth: one-shot Dice of registration alone, of the head alone, of the whole without
its second, closer look, and of the whole; and seconds a query. On the pairs of pairs.json.

    python benchmarks/parts.py --weights WEIGHTS --output runs/parts.csv [--sets hippocampus …] [--pairs 8]

Goes on where it stopped: what --output holds is not run again.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pairs import listed, read
from results import run

from app.service import Service
from iris_core import inference
from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding


def registration(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.carried_labels(service.checkpoint.model, embedding, query)


def head(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, replace(embedding, references=()), query)


def whole(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, embedding, query)


def one_look(service: Service, embedding: TaskEmbedding, query: Case) -> np.ndarray:
    return inference.segment(service.checkpoint.model, embedding, query, closer=False)


PARTS = {part.__name__: part for part in (registration, head, one_look, whole)}


def measure(
    service: Service, name: str, number: int, methods: Sequence[str] = tuple(PARTS)
) -> dict[str, tuple[float, float]]:
    pair = read(name, number)
    embedding, found = service.encode(pair.reference), {}
    for method in methods:
        started = time.perf_counter()
        labels = PARTS[method](service, embedding, Case(pair.query.image, pair.query.affine, name=pair.query.name))
        found[method] = pair.dice(labels), time.perf_counter() - started
    return found


if __name__ == "__main__":
    run(__doc__, list(PARTS), list(listed()), measure)
