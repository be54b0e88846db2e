"""How several references add up: Dice of one, three and five by the ensemble, of three and five by tuning, and of one,
three and five by registration alone. On the queries of pairs.json, in the sets with subjects enough; `five` takes what
there is where a set has fewer.

    python benchmarks/references.py --weights WEIGHTS --output runs/references.csv [--sets hippocampus …] [--pairs 8]

WEIGHTS that never saw a set (leave_out.py trains them) say what holds for a stranger's scans. Goes on where it stopped:
what --output holds is not run again.
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

NUMBERS = (1, 3, 5)
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


def ensemble(service: Service, references: list[Case], query: Case) -> np.ndarray:
    return service.segment(service.plan("ensemble", references)(query).embedding, query)


def tuning(service: Service, references: list[Case], query: Case) -> np.ndarray:
    return service.segment(service.plan("tuning", references)(query).embedding, query)


def registration(service: Service, references: list[Case], query: Case) -> np.ndarray:
    return carried_labels(service.checkpoint.model, service.plan("ensemble", references)(query).embedding, query)


METHODS: dict[str, tuple[Callable, int]] = {
    **{f"ensemble {n}": (ensemble, n) for n in NUMBERS},
    **{f"tuning {n}": (tuning, n) for n in NUMBERS[1:]},
    **{f"alone {n}": (registration, n) for n in NUMBERS},
}


def measure(service: Service, name: str, number: int) -> dict[str, tuple[float, float]]:
    query, *references = several(name, number, max(NUMBERS))
    asked = Case(query.image, query.affine, name=query.name)
    found = {}
    for method, (answer, n) in METHODS.items():
        started = time.perf_counter()
        labels = answer(service, references[:n], asked)
        found[method] = Pair(references[0], query).dice(labels), time.perf_counter() - started
    return found


if __name__ == "__main__":
    run(__doc__, list(METHODS), SETS, measure)
