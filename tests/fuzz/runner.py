"""Cases, one after the other, in a child that is begun anew where it dies or takes too long."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import hostile
from mutations import spoilt
from samples import TARGETS

SECONDS = 5.0  # of a processor, for a case
PATIENCE = 6  # times as long on the clock, where others use the machine too
START_S = 300.0  # for the child to be ready
GOOD = ("read", "refused")


@dataclass(frozen=True)
class Case:
    """What was done to a sample, and what came of it. It is made again from kind, seed and number."""

    kind: str
    seed: int
    number: int
    done: str
    outcome: str
    said: str
    seconds: float


class Runner:
    """root: where the samples lie, see samples.make."""

    def __init__(self, root: Path) -> None:
        self.root, self.child = root, None
        self.errors = root / "stderr.txt"

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def run(self, kind: str, seed: int, number: int) -> Case:
        """Spoil a sample and read it."""
        with self._spoilt(kind, seed, number) as (folder, done):
            answer = self.read(kind, folder)
        return Case(kind, seed, number, done, answer["outcome"], answer["said"], answer["seconds"])

    def read(self, kind: str, folder: Path) -> dict:
        if self.child is None or self.child.poll() is not None:
            self._begin()
        self.child.stdin.write(json.dumps({"kind": kind, "folder": str(folder)}) + "\n")
        self.child.stdin.flush()
        answer = self._answer(SECONDS)
        return answer or {"outcome": "too long", "said": f"more than {SECONDS:g} s", "seconds": SECONDS}

    def keep(self, case: Case, target: Path) -> None:
        """Make a case again, to be looked at."""
        with self._spoilt(case.kind, case.seed, case.number) as (folder, _):
            shutil.copytree(folder, target, dirs_exist_ok=True)

    @contextmanager
    def whole(self, kind: str) -> Iterator[Path]:
        """A copy of a good sample."""
        folder = self.root / "cases" / "whole"
        shutil.copytree(self.root / kind.replace(" ", "-"), folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _spoilt(self, kind: str, seed: int, number: int) -> Iterator[tuple[Path, str]]:
        rng = Random(f"{kind}/{seed}/{number}")
        folder = self.root / "cases" / f"{number}"
        shutil.copytree(self.root / kind.replace(" ", "-"), folder)
        try:
            files = [path for pattern in TARGETS[kind] for path in sorted(folder.glob(pattern))]
            path = rng.choice(files)
            done = hostile.changed(path, rng) if rng.random() < 0.5 else None
            if done is None:
                data, done = spoilt(path.read_bytes(), rng)
                path.write_bytes(data)
            yield folder, f"{path.name}, {done}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _begin(self) -> None:
        self._end()
        command = [sys.executable, str(Path(__file__).with_name("reader.py")), str(self.root), "--warm"]
        with open(self.errors, "w") as errors:
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        if (self._answer(START_S) or {}).get("outcome") != "ready":
            raise RuntimeError(f"the reader did not start: {self.errors.read_text()[-2000:]}")

    def _answer(self, seconds: float) -> dict | None:
        """The child's next line; None, and the child is ended, where it says nothing in time."""
        began, ready = time.monotonic(), []
        spent = self._spent()
        while not ready and self._spent() - spent < seconds and time.monotonic() - began < PATIENCE * seconds:
            ready, _, _ = select.select([self.child.stdout], [], [], 0.1)
        line = self.child.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        died = bool(ready)
        self._end()
        if not died:
            return None
        said = self.errors.read_text(errors="replace")[-1500:]
        return {"outcome": "died", "said": f"exit {self.code}: {said}", "seconds": 0.0}

    def _spent(self) -> float:
        """Seconds of a processor that the child has used: other work on the machine does not count."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self) -> None:
        if self.child is not None:
            self.child.kill() if self.child.poll() is None and self.child.stdin.closed else None
            self.child.stdin.close()
            try:
                self.code = self.child.wait(1)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.code = self.child.wait()
            self.child.stdout.close()
            self.child = None
