"""How several references add up: Dice of one, three and five, by the ensemble. On the queries of pairs.json, in the
sets with subjects enough.

    python benchmarks/references.py --weights WEIGHTS --output runs/references.csv [--sets hippocampus …] [--pairs 8]

Goes on where it stopped: what --output holds is not run again.
"""

import time

from held_out import Pair
from pairs import several
from results import run

from app.service import Service
from iris_core.case import Case

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
)


def measure(service: Service, name: str, number: int) -> dict[str, tuple[float, float]]:
    query, *references = several(name, number, max(NUMBERS))
    asked = Case(query.image, query.affine, name=query.name)
    found = {}
    for n in NUMBERS:
        chosen = service.plan("ensemble", references[:n])(asked).embedding
        started = time.perf_counter()
        labels = service.segment(chosen, asked)
        found[str(n)] = Pair(references[0], query).dice(labels), time.perf_counter() - started
    return found


if __name__ == "__main__":
    run(__doc__, [str(n) for n in NUMBERS], SETS, measure)
