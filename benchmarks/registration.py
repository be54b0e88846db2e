"""Registration alone, nothing learnt: the reference's mask carried over by Iris' registration, ANTs SyN, greedy and
ConvexAdam. Dice and seconds on the same pairs (pairs.json).

    pip install '.[bench]'
    python benchmarks/registration.py --output runs/registration.csv [--sets hippocampus …] [--methods iris syn …]

Goes on where it stopped: what --output holds is not run again. Where a method gives up with an error its mask counts as
empty. Every method has the threads of OMP_NUM_THREADS.
"""

import argparse
import csv
import os
import sys
import time
from pathlib import Path

threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from opponents import OPPONENTS  # noqa: E402
from pairs import read, sets  # noqa: E402

from iris_core.evaluation.metrics import dice  # noqa: E402
from iris_core.geometry import oriented  # noqa: E402

COLUMNS = "set", "pair", "method", "dice", "seconds", "failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a CSV with every pair")
    parser.add_argument("--sets", nargs="*", choices=sets(), default=sets())
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(int(threads))
    if not arguments.output.exists():
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(",".join(COLUMNS) + "\n")
    done = {(row["set"], int(row["pair"]), row["method"]) for row in rows(arguments.output)}
    for name in arguments.sets:
        for number, pair in enumerate(read(name)):
            volumes = [(*oriented(case, case.image), oriented(case, case.labels)[0]) for case in (pair.reference, pair.query)]
            reference, query = ((image, labels, spacing_mm) for image, spacing_mm, labels in volumes)
            for method in arguments.methods:
                if (name, number, method) in done:
                    continue
                started = time.perf_counter()
                try:
                    found, failed = METHODS[method](reference, (query[0], None, query[2])), False
                except RuntimeError as error:
                    print(f"{name} {number} {method}: {error}", file=sys.stderr)
                    found, failed = np.zeros(query[0].shape, np.int32), True
                seconds = time.perf_counter() - started
                shown = [c.value for c in pair.reference.present() if c.mask(pair.query.labels).any()]
                score = float(np.mean([dice(found == value, query[1] == value) for value in shown]))
                with open(arguments.output, "a", newline="") as file:
                    csv.writer(file).writerow([name, number, method, f"{score:.4f}", f"{seconds:.3f}", int(failed)])
    print(table(rows(arguments.output), arguments.methods))


METHODS = OPPONENTS


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def table(results: list[dict[str, str]], methods: list[str]) -> str:
    """Mean Dice, and seconds a pair, of each method on each set."""
    lines = [f"{'set':24s} pairs" + "".join(f"{m:>12s}" for m in methods) + "   seconds" + "".join(f"{m:>11s}" for m in methods)]
    means: list[list[float]] = []
    for name in dict.fromkeys(row["set"] for row in results):
        of_set = {m: [r for r in results if r["set"] == name and r["method"] == m] for m in methods}
        n = max(map(len, of_set.values()))
        values = [[float(np.mean([float(r[key]) for r in of_set[m]])) if of_set[m] else np.nan for m in methods] for key in ("dice", "seconds")]
        means.append([*values[0], *values[1]])
        lines.append(f"{name:24s} {n:5d}" + "".join(f"{v:12.3f}" for v in values[0]) + " " * 10 + "".join(f"{v:11.2f}" for v in values[1]))
    mean, k = np.mean(means, 0), len(methods)
    lines.append(f"{'mean of sets':24s}      " + "".join(f"{v:12.3f}" for v in mean[:k]) + " " * 10 + "".join(f"{v:11.2f}" for v in mean[k:]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
