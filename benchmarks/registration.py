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
from held_out import Pair  # noqa: E402
from opponents import OPPONENTS, Volume  # noqa: E402
from pairs import TUMOURS, listed, read  # noqa: E402
from record import record  # noqa: E402
from results import rows, table  # noqa: E402

from iris_core.case import Case  # noqa: E402
from iris_core.evaluation.metrics import dice  # noqa: E402
from iris_core.geometry import oriented  # noqa: E402
from iris_core.intensity import detect_scheme, normalise  # noqa: E402
from iris_core.registration import Scan, prepare, register  # noqa: E402

COLUMNS = "set", "pair", "method", "dice", "seconds", "failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a CSV with every pair")
    parser.add_argument("--sets", nargs="*", choices=listed(), default=[s for s in listed() if s not in TUMOURS])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(int(threads))
    record(arguments.output)
    if not arguments.output.exists():
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(",".join(COLUMNS) + "\n")
    done = {(row["set"], int(row["pair"]), row["method"]) for row in rows(arguments.output)}
    work = [(name, i) for name in arguments.sets for i in range(len(listed()[name]))]
    for name, number in sorted(work, key=lambda w: w[1]):  # the first pair of every set, then the second
        methods = [m for m in arguments.methods if (name, number, m) not in done]
        if not methods:
            continue
        pair = read(name, number)
        for method in methods:
            score, seconds, failed = measured(method, pair, f"{name} {number}")
            with open(arguments.output, "a", newline="") as file:
                csv.writer(file).writerow([name, number, method, f"{score:.4f}", f"{seconds:.3f}", int(failed)])
    print(table(rows(arguments.output), arguments.methods))


def measured(method: str, pair: Pair, called: str) -> tuple[float, float, bool]:
    """Dice and seconds of one method on a pair, and whether it gave up. called: the pair, in a message."""
    reference, query = map(volume, (pair.reference, pair.query))
    shown = [c.value for c in pair.reference.present() if c.mask(pair.query.labels).any()]
    started = time.perf_counter()
    try:
        found, failed = METHODS[method](reference, (query[0], None, query[2])), False
    except RuntimeError as error:
        print(f"{called} {method}: {error}", file=sys.stderr)
        found, failed = np.zeros(query[0].shape, np.int32), True
    seconds = time.perf_counter() - started
    return float(np.mean([dice(found == value, query[1] == value) for value in shown])), seconds, failed


def iris(reference: Volume, query: Volume) -> np.ndarray:
    """Iris' registration; a class is where more than half of it is carried to, the strongest wins."""
    image, labels, spacing_mm = reference
    values = [int(v) for v in np.unique(labels) if v]
    shown = prepare(scan(image, spacing_mm), [torch.from_numpy(labels == v) for v in values])
    found = register(scan(query[0], query[2]), shown)
    grid = [
        torch.from_numpy((np.arange(n) + 0.5 - n / 2) * s).float()
        for n, s in zip(query[0].shape, query[2], strict=True)
    ]
    carried, slab = np.zeros(query[0].shape, np.int32), max(1, 2**22 // (query[0][0].size * len(values)))
    for first in range(0, len(grid[0]), slab):
        places = torch.stack(torch.meshgrid(grid[0][first : first + slab], *grid[1:], indexing="ij"))[None]
        best, which = shown.masks.at(found.at(places)[0])[0].max(0)
        carried[first : first + slab] = np.where(best > 0.5, np.array(values)[which], 0)
    return carried


def scan(image: np.ndarray, spacing_mm: tuple[float, ...]) -> Scan:
    return Scan(torch.from_numpy(np.ascontiguousarray(normalise(image, detect_scheme(image)))), spacing_mm)


METHODS = {"iris": iris, **OPPONENTS}


def volume(case: Case) -> Volume:
    image, spacing_mm = oriented(case, case.image)
    return image, oriented(case, case.labels)[0], spacing_mm


if __name__ == "__main__":
    main()
