"""A hundred faults of every command that writes: `python tests/faults/campaign.py --kills 100` prints what was lost.

Killed with -9 at random moments; a disk that is full (a tmpfs, needs root) or may only be read; two at once with one
output. After each, what exists must be whole, and a repetition must leave what an undisturbed run does. Exit code 1
where anything was lost, which is said.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from random import Random

from commands import COMMANDS
from trials import World

FAULTS = "killed", "disk full", "read only", "two at once"
LINE = "{:16} | {:>12} | {:>12} | {:>12} | {:>12}"


def campaign(kills: int, others: int, seed: int, only: list[str]) -> int:
    """Print the table, a line a command: trials and losses of every fault. Returns the losses."""
    lost, disks = 0, os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="iris-faults-") as folder:
        world = World(Path(folder))
        print("trials, losses\n" + LINE.format("command", *FAULTS), flush=True)
        for name in only:
            random = Random(f"{seed} {name}")
            faults = (
                [partial(world.killed, name, random.random()) for _ in range(kills)],
                [partial(world.full, name, random.uniform(0, 0.9)) for _ in range(others * disks)],
                [partial(world.read_only, name)] * disks,
                [partial(world.twice, name)] * others,
            )
            cells = []
            for fault, trials in zip(FAULTS, faults, strict=True):
                losses = 0
                for number, trial in enumerate(trials, 1):
                    if loss := trial():
                        losses += 1
                        print(f"{name}: {loss}", file=sys.stderr)
                    print(f"{name}, {fault}: {number} of {len(trials)}, {losses} lost", file=sys.stderr, flush=True)
                lost += losses
                cells.append(f"{len(trials)}, {losses}")
            print(LINE.format(name, *cells), flush=True)
    print(f"losses: {lost}")
    return lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of every command")
    parser.add_argument("--others", type=int, default=10, help="trials of every other fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    return 1 if campaign(arguments.kills, arguments.others, arguments.seed, arguments.only) else 0


if __name__ == "__main__":
    sys.exit(main())
