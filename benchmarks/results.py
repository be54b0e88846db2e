"""Results of methods on pairs, kept in a CSV so that a run goes on where it stopped. No command of its own."""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pairs import listed
from record import record

from app.service import Service

COLUMNS = "set", "pair", "method", "dice", "seconds"
Measure = Callable[[Service, str, int], dict[str, tuple[float, float]]]  # (set, pair) → method: Dice, seconds


def run(about: str, methods: Sequence[str], sets: Sequence[str], measure: Measure) -> None:
    """A command that measures on each pair that --output lacks, and prints a table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a CSV with every pair")
    parser.add_argument("--sets", nargs="*", choices=sets, default=sets)
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most")
    arguments = parser.parse_args()
    measure_all(arguments.weights, arguments.output, arguments.sets, arguments.pairs, measure)
    print(table(rows(arguments.output), list(methods)))


def measure_all(weights: str, output: Path, sets: Sequence[str], pairs: int, measure: Measure) -> None:
    """Measure the pairs of ``sets`` that ``output`` lacks."""
    record(output, weights)
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(",".join(COLUMNS) + "\n")
    service = Service(weights, "cpu")
    done = {(row["set"], int(row["pair"])) for row in rows(output)}
    work = [(name, i) for name in sets for i in range(min(pairs, len(listed()[name])))]
    for name, number in sorted(work, key=lambda w: w[1]):  # the first pair of every set, then the second
        if (name, number) in done:
            continue
        found = measure(service, name, number)
        with open(output, "a", newline="") as file:
            csv.writer(file).writerows([name, number, m, f"{d:.4f}", f"{s:.3f}"] for m, (d, s) in found.items())


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def means(results: list[dict[str, str]], column: str = "dice") -> dict[tuple[str, str], float]:
    """(set, method) → mean of a column."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in results:
        found.setdefault((row["set"], row["method"]), []).append(float(row[column]))
    return {key: float(np.mean(values)) for key, values in found.items()}


def table(results: list[dict[str, str]], methods: list[str]) -> str:
    """Mean Dice, and seconds a pair, of each method on each set."""
    lines = [
        f"{'set':24s} pairs"
        + "".join(f"{m:>12s}" for m in methods)
        + "   seconds"
        + "".join(f"{m:>11s}" for m in methods)
    ]
    of_sets: list[list[float]] = []
    by_column = [means(results, column) for column in ("dice", "seconds")]
    for name in dict.fromkeys(row["set"] for row in results):
        n = len({row["pair"] for row in results if row["set"] == name})
        values = [[found.get((name, m), np.nan) for m in methods] for found in by_column]
        of_sets.append([*values[0], *values[1]])
        lines.append(
            f"{name:24s} {n:5d}"
            + "".join(f"{v:12.3f}" for v in values[0])
            + " " * 10
            + "".join(f"{v:11.2f}" for v in values[1])
        )
    mean, k = np.mean(of_sets, 0), len(methods)
    lines.append(
        f"{'mean of sets':24s}      "
        + "".join(f"{v:12.3f}" for v in mean[:k])
        + " " * 10
        + "".join(f"{v:11.2f}" for v in mean[k:])
    )
    return "\n".join(lines)


def interval(groups: Sequence[Sequence[float]], rounds: int = 10_000) -> tuple[float, float]:
    """95 % of the mean over groups of their means, by the bootstrap: pairs are drawn anew within each group."""
    rng = np.random.default_rng(0)
    means = [np.asarray(group)[rng.integers(len(group), size=(rounds, len(group)))].mean(1) for group in groups]
    low, high = np.percentile(np.mean(means, 0), (2.5, 97.5))
    return float(low), float(high)
