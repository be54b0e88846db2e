"""What a run tells: log.csv and TensorBoard."""

import csv
import sys
from collections import Counter
from pathlib import Path

from iris_core import files

REFUSED, REFUSED_NAMED = "refused/", 10  # rows of log.csv; cases named at the end of a run


class Log:
    """log.csv (iteration, name, value) and TensorBoard, cut back to the iteration a resumed run goes on from.

    Cases of which no episode could be made are rows "refused/Dataset: case, case" in log.csv; ``close`` says how often.
    """

    def __init__(self, output: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        output.mkdir(parents=True, exist_ok=True)
        path = output / "log.csv"
        kept = []
        if path.exists():
            with open(path, newline="") as file:
                kept = [
                    row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= iteration
                ]
        self._refused = Counter(row[1].removeprefix(REFUSED) for row in kept if row[1].startswith(REFUSED))
        files.write_atomically(path, lambda temporary: _write_rows(temporary, kept))
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._board = SummaryWriter(output / "tensorboard", purge_step=iteration + 1)

    def write(self, iteration: int, **values: float) -> None:
        for name, value in values.items():
            self._rows.writerow([iteration, name, repr(float(value))])
            self._board.add_scalar(name, value, iteration)
        self._file.flush()

    def refused(self, iteration: int, cases: tuple[str, ...]) -> None:
        self._refused.update(cases)
        self._rows.writerows([iteration, f"{REFUSED}{drawn}", 1] for drawn in cases)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._refused:
            named = "; ".join(f"{drawn} ({times}×)" for drawn, times in self._refused.most_common(REFUSED_NAMED))
            print(
                f"{self._refused.total()} episodes were drawn anew, since these cases make none together: {named}"
                + ("; all are in log.csv" if len(self._refused) > REFUSED_NAMED else ""),
                file=sys.stderr,
            )


def _write_rows(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["iteration", "name", "value"], *rows])
