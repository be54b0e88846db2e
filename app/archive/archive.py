"""`iris segment` of an archive: from rows to masks, a record beside each, and a table of all."""

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from app.archive.engines import engine
from app.archive.manifest import Row, check_all, checked, columns, of_part, rows
from app.archive.places import address, is_remote, needed, put, scans_in, within
from iris_core.case import InputError
from iris_core.files import write_json
from nnunet_adapters.folder import Part
from weights import find_weights

if TYPE_CHECKING:
    from app.commands.segment import Segment

GROUP = 1_000  # rows of the table that are written at once


def is_archive(command: "Segment") -> bool:
    """Whether more than a folder is asked for: a manifest, an address, or several machines."""
    places = (*command.query, *command.reference, *command.mask, command.output)
    tasks = (task for task in command.task if not task.startswith("hf:"))
    remote = any(is_remote(address(place)) or str(place).startswith("file:") for place in (*places, *tasks))
    return bool(command.manifest) or command.engine != "local" or remote


def segment_archive(command: "Segment") -> int:
    """Segment every row; what exists with the right hash stays. Returns the exit code.

    In --output: the masks, a record beside each (.json), results.parquet with a line a row, and run.json. A run that is
    killed at any point goes on when it is started again.

    Raises InputError before any work where a row cannot be used, or two would write one file.
    """
    if command.statistics or command.pool:
        raise InputError("--statistics and --pool are of one folder: not with --manifest, --engine or addresses")
    run = engine(command.engine)
    needed("pyarrow", "an archive")
    sha256 = hashlib.sha256((find_weights(command.weights) / "model.safetensors").read_bytes()).hexdigest()
    part = Part(command.part_id, command.num_parts)
    manifest = address(command.manifest) if command.manifest else None
    if bool(manifest) == bool(command.query):
        raise InputError("name the scans by --manifest or by --query, one of the two")
    if manifest and (command.reference or command.task) and columns(manifest) & {"reference", "task"}:
        raise InputError(f"{manifest}: its rows name what shows the task, and so does the command line; leave out one")
    where = manifest or "--query"
    queries = [] if manifest else scans_in(tuple(map(address, command.query)))

    def all_rows() -> Iterator[Row]:
        if manifest:
            return rows(manifest, command.format)
        return (checked(f"--query {query}", {"query": query}, command.format) for query in queries)

    number = check_all(where, all_rows(), part)
    output = address(command.output)
    table = _Table(within(output, part.named("results.parquet")))
    counts: Counter[str] = Counter()
    with closing(table), tqdm(total=number, desc="queries", unit="scan") as bar:
        for record in run(command, of_part(all_rows(), part)) if number else ():
            counts[record["status"]] += 1
            if record["status"] == "failed":
                tqdm.write(f"iris: error: {record['error']}", file=sys.stderr)
            table.add(record)
            bar.update()
        table.commit()
    report = command.report(sha256) | {"results": part.named("results.parquet"), "counts": dict(counts)}
    _put_json(report, within(output, part.named("run.json")))
    done = counts["done"] + counts["kept"]
    print(f"{done} of {number} queries done, {counts['kept']} of them before: {output}")
    return 0 if done == number else 1


def _put_json(value: dict, place: str) -> None:
    with tempfile.TemporaryDirectory(prefix="iris-") as temporary:
        write_json(Path(temporary) / "value.json", value)
        put(Path(temporary) / "value.json", place)


class _Table:
    """results.parquet: it is there when all rows are, not before."""

    def __init__(self, place: str) -> None:
        import pyarrow as arrow

        text, numbers = arrow.string(), arrow.map_(arrow.string(), arrow.float64())
        names = arrow.map_(text, text)
        fields = dict.fromkeys(("query", "output", "status", "error", "key", "sha256", "intensity"), text)
        fields |= {"classes": names, "notes": names, "volumes_ml": numbers, "confidence": numbers}
        fields |= dict.fromkeys(("spacing_mm", "seconds", "seconds_read"), arrow.float64())
        self.place, self.schema, self.waiting = place, arrow.schema(fields), []
        self._stack = ExitStack()
        self._file = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="iris-"))) / "results.parquet"
        from pyarrow import parquet

        self._writer = self._stack.enter_context(parquet.ParquetWriter(self._file, self.schema))

    def add(self, record: dict) -> None:
        self.waiting.append({k: list(v.items()) if isinstance(v, dict) else v for k, v in record.items()})
        if len(self.waiting) == GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as arrow

        self._writer.write_table(arrow.Table.from_pylist(self.waiting, self.schema))
        self.waiting = []

    def commit(self) -> None:
        self._flush()
        self._writer.close()
        put(self._file, self.place)

    def close(self) -> None:
        self._stack.close()
