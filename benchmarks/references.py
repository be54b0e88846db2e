"""How several references add up: Dice of one, three and five, by the ensemble. On the queries of pairs.json, in the
sets with subjects enough.

    python benchmarks/references.py --weights WEIGHTS --output runs/references.csv [--sets hippocampus …] [--pairs 8]

Goes on where it stopped: what --output holds is not run again.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from pairs import listed, several
from registration import rows, table

from app.service import Service
from iris_core.case import Case
from iris_core.evaluation.metrics import dice

COLUMNS = "set", "pair", "method", "dice", "seconds"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a CSV with every query")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS)
    parser.add_argument("--pairs", type=int, default=8, help="queries of a set, at most")
    arguments = parser.parse_args()
    if not arguments.output.exists():
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(",".join(COLUMNS) + "\n")
    service = Service(arguments.weights, "cpu")
    done = {(row["set"], int(row["pair"])) for row in rows(arguments.output)}
    work = [(name, i) for name in arguments.sets for i in range(min(arguments.pairs, len(listed()[name])))]
    for name, number in sorted(work, key=lambda w: w[1]):  # the first query of every set, then the second
        if (name, number) in done:
            continue
        query, *references = several(name, number, max(NUMBERS))
        asked = Case(query.image, query.affine, name=query.name)
        shown = [c for c in references[0].present() if c.mask(query.labels).any()]
        found = []
        for n in NUMBERS:
            chosen = service.plan("ensemble", references[:n])(asked).embedding
            started = time.perf_counter()
            labels = service.segment(chosen, asked)
            seconds = time.perf_counter() - started
            score = float(np.mean([dice(labels == c.value, c.mask(query.labels)) for c in shown]))
            found.append([name, number, str(n), f"{score:.4f}", f"{seconds:.3f}"])
        with open(arguments.output, "a", newline="") as file:
            csv.writer(file).writerows(found)
    print(table(rows(arguments.output), [str(n) for n in NUMBERS]))


if __name__ == "__main__":
    main()
