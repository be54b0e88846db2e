"""One fault, and what came of it: nothing (an empty list), or what was lost."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import commands
from commands import COMMANDS
from trees import differences, files, spoilt

from runs import Run, iris

DONE, REFUSED = 0, 2
LARGE = 2**26  # bytes: room for what any command writes


class World:
    """Small data, and of every command what an undisturbed run leaves, made where it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.world = root, root / "world"
        commands.make(self.world)
        iris(["info"])  # begins the server that all are forked from
        self._seconds: dict[str, float] = {}

    def expected(self, name: str) -> tuple[Path, float]:
        """What it leaves, and the seconds it takes."""
        folder = self.root / "expected" / name.replace(" ", "-")
        if name not in self._seconds:
            folder.mkdir(parents=True)
            code, said, self._seconds[name] = iris(COMMANDS[name].arguments(self.world, folder))
            assert code == DONE, said
        return folder / COMMANDS[name].name, self._seconds[name]

    def killed(self, name: str, share: float) -> list[str]:
        """Killed with -9 after a share of its time; then whole, and completed by a repetition."""
        expected, seconds = self.expected(name)
        with self._folder() as folder:
            run = Run(COMMANDS[name].arguments(self.world, folder))
            time.sleep(share * seconds)
            run.kill()
            return spoilt(folder) + self._completed(name, folder, expected)

    def limited(self, name: str, share: float) -> list[str]:
        """No file may become larger than a share of the largest, as on a disk that is full: a message, all whole; then
        completed."""
        expected, _ = self.expected(name)
        most = int(share * max(path.stat().st_size for path in files(expected).values()))
        with self._folder() as folder:
            return self._failing(name, folder, most) + self._completed(name, folder, expected)

    def full(self, name: str, share: float) -> list[str]:
        """A disk that holds a share of what is written; then it has room. Needs root."""
        expected, _ = self.expected(name)
        size = int(share * sum(path.stat().st_size for path in files(expected).values()))
        with self._folder(f"size={max(size, 1)}") as folder:
            failing = self._failing(name, folder)
            _mount(folder, f"remount,size={LARGE}")
            return failing + self._completed(name, folder, expected)

    def read_only(self, name: str) -> list[str]:
        """A disk that may only be read; then it may be written too; then it may only be read again. Needs root."""
        expected, _ = self.expected(name)
        with self._folder("ro") as folder:
            failing = self._failing(name, folder)
            failing += [f"{left}: is left" for left in files(folder)]
            _mount(folder, "remount,rw")
            failing += self._completed(name, folder, expected)
            _mount(folder, "remount,ro")
            code, said, _ = iris(COMMANDS[name].arguments(self.world, folder, again=True))
            silent = code not in (DONE, 1, REFUSED) or "Traceback" in said or "delete it" in said
            failing += [f"a repetition that may only read: exit code {code}: {said[-600:]}"] * silent
            return failing + differences(folder / COMMANDS[name].name, expected)

    def twice(self, name: str) -> list[str]:
        """Two at once with one output: both done, or one refused; the output as of one."""
        expected, _ = self.expected(name)
        with self._folder() as folder:
            arguments = COMMANDS[name].arguments(self.world, folder)
            runs = [Run(arguments) for _ in range(2)]
            codes = [run.end() for run in runs]
            said = [run.said()[-600:] for run in runs if run.process.exitcode not in (DONE, REFUSED)]
            lost = [] if DONE in codes else [f"neither is done: {codes}"]
            return said + lost + differences(folder / COMMANDS[name].name, expected)

    def _failing(self, name: str, folder: Path, most_bytes: int | None = None) -> list[str]:
        """A run that cannot write what it wants says so."""
        code, said, _ = iris(COMMANDS[name].arguments(self.world, folder), most_bytes)
        silent = code not in (1, REFUSED) or "Traceback" in said or "cannot be written" not in said
        return spoilt(folder) + [f"exit code {code}: {said[-600:]}"] * silent

    def _completed(self, name: str, folder: Path, expected: Path) -> list[str]:
        command = COMMANDS[name]
        output = folder / command.name
        if command.new and output.exists() and any(output.iterdir()):
            return differences(output, expected)
        code, said, _ = iris(command.arguments(self.world, folder, again=True))
        return [f"exit code {code}: {said[-600:]}"] * (code != DONE) + differences(output, expected)

    @contextmanager
    def _folder(self, mounted: str = "") -> Iterator[Path]:
        """A new folder that is gone afterwards; with options of ``mount`` a disk of its own."""
        folder = self.root / "trial"
        folder.mkdir()
        if mounted:
            _mount(folder, mounted)
        try:
            yield folder
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)
            shutil.rmtree(folder)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
