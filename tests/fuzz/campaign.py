"""Thousands of spoilt files: `python tests/fuzz/campaign.py --cases 10000 --seed 1` prints what came of each kind.

Exit code 1 where anything but "read" and "refused" came of one; what was done is said, and with --keep its folder kept.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import samples
from runner import GOOD, Case, Runner

LINE = "{:20} | {:>6} | {:>6} | {:>7} | {:>13} | {:>9}"


def campaign(cases: int, seed: int, only: str | None = None, number: int | None = None) -> tuple[str, list[Case]]:
    """The table, and the cases of which something else came."""
    kinds = [only] if only else list(samples.TARGETS)
    rows, bad = [], []
    with tempfile.TemporaryDirectory(prefix="iris-fuzz-") as folder:
        root = Path(folder)
        os.environ["TMPDIR"] = folder
        samples.make(root)
        with Runner(root) as runner:
            for i, kind in enumerate(kinds):
                share = cases // len(kinds) + (i < cases % len(kinds))
                done = [runner.run(kind, seed, n) for n in (range(share) if number is None else [number])]
                strange = [case for case in done if case.outcome not in GOOD]
                for case in strange:
                    print(f"{case.kind} {case.number}: {case.done}\n    {case.outcome}: {case.said}", flush=True)
                    runner.keep(case, Path(KEEP) / f"{kind.replace(' ', '-')}-{case.number}") if KEEP else None
                count = Counter(case.outcome for case in done)
                slowest = max(case.seconds for case in done)
                rows.append((kind, len(done), count["read"], count["refused"], len(strange), f"{slowest:.2f} s"))
                bad += strange
    head = "kind of file", "number", "read", "refused", "anything else", "slowest"
    total = ["all", *(sum(row[i] for row in rows) for i in range(1, 5)), ""]
    return "\n".join(LINE.format(*row) for row in (head, *rows, total)), bad


KEEP = ""


def main() -> int:
    global KEEP
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a kind of file")
    parser.add_argument("--number", type=int, help="one case of it")
    parser.add_argument("--keep", default="", help="folder for what was neither read nor refused")
    asked = parser.parse_args()
    KEEP = asked.keep
    table, bad = campaign(asked.cases, asked.seed, asked.only, asked.number)
    print(table)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
