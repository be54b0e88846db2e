"""Thousands of spoilt files: `python tests/fuzz/campaign.py --cases 10000 --seed 1` prints what came of each kind.

Exit code 1 where anything but "read" and "refused" came of one; what was done is said, and with --keep its folder kept.
"""

import argparse
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import samples
from runner import GOOD, Runner

LINE = "{:20} | {:>6} | {:>6} | {:>7} | {:>13} | {:>9}"


def campaign(cases: int, seed: int, only: str | None, number: int | None, keep: Path | None) -> int:
    """Print the table, a line a kind, and before it what else came. Returns how often something else came."""
    kinds, rows = [only] if only else list(samples.TARGETS), []
    with tempfile.TemporaryDirectory(prefix="iris-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, while hostile files are made
        os.environ["TMPDIR"] = folder
        samples.make(Path(folder))
        print(LINE.format("kind of file", "number", "read", "refused", "anything else", "slowest"))
        with Runner(Path(folder)) as runner:
            for i, kind in enumerate(kinds):
                numbers = range(cases // len(kinds) + (i < cases % len(kinds))) if number is None else [number]
                outcomes, slowest = Counter(), 0.0
                for n in numbers:
                    case = runner.run(kind, seed, n)
                    outcomes[case.outcome] += 1
                    slowest = max(slowest, case.seconds)
                    if case.outcome not in GOOD:
                        print(f"{kind} {n}: {case.done}\n    {case.outcome}: {case.said}", file=sys.stderr)
                        if keep:
                            runner.keep(case, keep / f"{kind.replace(' ', '-')}-{n}")
                good = [outcomes[outcome] for outcome in GOOD]
                rows.append((outcomes.total(), *good, outcomes.total() - sum(good)))
                print(LINE.format(kind, *rows[-1], f"{slowest:.2f} s"), flush=True)
    total = [sum(column) for column in zip(*rows, strict=True)]
    print(LINE.format("all", *total, ""))
    return total[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=samples.TARGETS, help="a kind of file")
    parser.add_argument("--number", type=int, help="one case of it")
    parser.add_argument("--keep", type=Path, help="folder for what was neither read nor refused")
    asked = parser.parse_args()
    return 1 if campaign(asked.cases, asked.seed, asked.only, asked.number, asked.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
