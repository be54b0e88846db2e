"""How several references add up: Dice of one, three and five by the ensemble, of the same by registration alone, and of
three by tuning. On the queries of pairs.json, in the sets with subjects enough; `5` takes what there is where a set has
fewer.

    python benchmarks/references.py --weights WEIGHTS --output runs/references.csv [--sets hippocampus …] [--pairs 8]

WEIGHTS that never saw a set (leave_out.py trains them) say what holds for a stranger's scans. Seconds are of a query
whose references are encoded; of tuning, with encoding and the fit. Goes on where it stopped: what --output holds is not
run again.
"""

import time
from collections.abc import Callable

import numpy as np
from held_out import Pair
from pairs import TUMOURS, several
from results import run

from app.service import Service
from iris_core.case import Case
from iris_core.inference import carried_labels
from iris_core.intensity import detect_scheme

NUMBERS = (1, 3, 5)
TUNED = 3
SETS = (
    "hippocampus",
    "heart",
    "head-neck CT",
    "vertebrae",
    "prostate US",
    "fetal atlas",
    "brain, one contrast",
    "brain, two contrasts",
    *TUMOURS,
)

METHODS = *(f"{method} {n}" for n in NUMBERS for method in ("ensemble", "alone")), f"tuning {TUNED}"


def measure(service: Service, name: str, number: int) -> dict[str, tuple[float, float]]:
    query, *references = several(name, number, max(NUMBERS))
    pair, asked = Pair(references[0], query), Case(query.image, query.affine, name=query.name)
    scheme = detect_scheme(references[0].image)

    def of(answer: Callable[[], np.ndarray]) -> tuple[float, float]:
        started = time.perf_counter()
        labels = answer()
        return pair.dice(labels), time.perf_counter() - started

    def tuned() -> np.ndarray:
        return service.segment(service.plan("tuning", references[:TUNED], scheme=scheme)(asked).embedding, asked)

    found = {}
    for n in NUMBERS:
        embedding = service.plan("ensemble", references[:n], scheme=scheme)(asked).embedding
        found[f"ensemble {n}"] = of(lambda task=embedding: service.segment(task, asked))
        found[f"alone {n}"] = of(lambda task=embedding: carried_labels(service.checkpoint.model, task, asked))
    return found | {f"tuning {TUNED}": of(tuned)}


if __name__ == "__main__":
    run(__doc__, METHODS, SETS, measure)
