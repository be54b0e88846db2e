"""One row of an archive: fetched, segmented, written with a record beside it; done once whatever is killed."""

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.archive.manifest import Row
from app.archive.places import address, fetch, identity, is_remote, put, read, within
from iris_core import __version__
from iris_core.case import InputError
from iris_core.files import parse_json, write_json
from nnunet_adapters.folder import entry_of
from nnunet_adapters.headers import ending
from nnunet_adapters.images import read_scan
from nnunet_adapters.masks import ENDINGS
from nnunet_adapters.outputs import output_name, write

if TYPE_CHECKING:
    from app.commands.segment import Segment

# Options that decide no result, or are in its key as what they lead to.
NO_SETTING = ("query", "output", "manifest", "engine", "num_parts", "part_id", "continue_", "device", "weights")
NO_SETTING += ("reference", "mask", "task")


class Worker:
    """Holds the model, loaded once. Whatever is to be kept lies in the archive; the worker may die at any time.

    Beside a mask its record lies, <mask>.json: what run.json says of a result, the SHA-256 of the mask, and the key of
    all that it was made from. It is written before the mask: a mask is a result if its record bears it out, else it is
    made again.
    """

    def __init__(self, command: "Segment") -> None:
        from app.service import Service

        self.command = command
        self.output = address(command.output)
        self.service = Service(command.weights, command.device)
        settings = {k: str(v) for k, v in vars(command).items() if k not in NO_SETTING}
        self.made_by = [__version__, self.service.checkpoint.sha256, settings]
        self._identities = lru_cache(64)(lambda places: [identity(place) for place in places])
        self._shown = lru_cache(4)(self._encode)

    def __call__(self, row: Row) -> dict:
        """Segment a row. Returns its record with ``status``: done, kept, or failed with ``error``."""
        target = within(self.output, row.output)
        try:
            shown = self._places(row)
            key = self._key(row, shown)
            former = _record(target)
            mask = read(target)
            if mask is not None and former is None:
                raise InputError(f"{target}: exists and is no result of a former run; choose another output")
            if former and mask is not None and (former["key"], former["sha256"]) == (key, _sha256(mask)):
                return former | {"output": row.output, "status": "kept"}
            return self._segment(row, shown, target, key)
        except Exception as error:  # whatever a scan leads to is that row's error, and not the end
            message = str(error) if row.query in str(error) else f"{row.query}: {error or type(error).__name__}"
            return failed(row, message)

    def _places(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """References, masks, task files: the row's own, else the command line's."""
        if row.reference or row.task:
            return (row.reference,) * bool(row.reference), (row.mask,) * bool(row.mask), (row.task,) * bool(row.task)
        c = self.command
        tasks = tuple(task if task.startswith("hf:") else address(task) for task in c.task)
        return tuple(map(address, c.reference)), tuple(map(address, c.mask)), tasks

    def _key(self, row: Row, shown: tuple[tuple[str, ...], ...]) -> str:
        """Of all that decides a result; another value means that it is to be made anew."""
        scans = self._identities(shown[0] + shown[1])
        tasks = [name if name.startswith("hf:") else self._identities((name,)) for name in shown[2]]
        return _sha256(json.dumps([*self.made_by, scans, tasks, identity(row.query)]).encode())

    def _encode(self, shown: tuple[tuple[str, ...], ...]) -> tuple:
        """The plan of what shows the task, the references that judge results, and how masks are to be written."""
        with tempfile.TemporaryDirectory(prefix="iris-") as folder:
            files: dict[str, str] = {}
            for place in sum(shown, ()):
                (here := Path(folder) / str(len(files))).mkdir()
                files[place] = place if place in shown[2] and place.startswith("hf:") else str(fetch(place, here))
            reference, mask, task = (tuple(files[place] for place in places) for places in shown)
            paths = {"reference": tuple(map(Path, reference)), "mask": tuple(map(Path, mask)), "task": task}
            command = dataclasses.replace(self.command, **paths)
            with _called({Path(path): place for place, path in files.items()}):
                references = command.references()
                for i, place in enumerate(shown[0]):
                    references[i] = dataclasses.replace(references[i], name=place)
                plan = command.plan(self.service, references)
                judges = command.judges(references) if command.confidence else []
        return plan, judges, command.wanted(references)

    def _segment(self, row: Row, shown: tuple[tuple[str, ...], ...], target: str, key: str) -> dict:
        plan, judges, wanted = self._shown(shown)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="iris-") as folder:
            query = fetch(row.query, Path(folder))
            with _called({query: row.query}):
                named = output_name(query, wanted.format)
                end = ending(Path(named)) if wanted.format == "query" else ENDINGS[wanted.format]
                if not row.output.endswith(end):
                    raise InputError(f"{row.query}: its output must end in {end}, got {row.output}")
                case = read_scan(query)
                fetched = time.perf_counter()
                query_task = plan(case)
                prediction = self.service.predict(query_task.embedding, case)
                labels = wanted.labels(prediction, query_task.embedding.values, case.voxel_ml)
                trust = self.service.confidence(judges, case, labels, query_task.embedding) if judges else {}
                made = Path(folder) / "made" / Path(row.output).name
                said = write(labels, query, made, query_task.embedding, wanted, prediction)
            if self._key(row, shown) != key:
                raise InputError(f"{row.query}: was changed while it was segmented; run again for its mask")
            result = entry_of(row.query, case, query_task, labels, trust, time.perf_counter() - started) | said
            result |= {"output": row.output, "key": key, "sha256": _sha256(made.read_bytes())}
            result["seconds_read"] = round(fetched - started, 3)
            self._keep(made, target, result, Path(folder) / "record.json")
        return result

    def _keep(self, made: Path, target: str, result: dict, record: Path) -> None:
        """The record first, the mask last: see the class."""
        write_json(record, result)
        put(record, f"{target}.json")
        above = target.rpartition("/")[0] if is_remote(target) else str(Path(target).parent)
        beside = sorted(p for p in made.parent.rglob("*") if p.is_file() and p != made)
        for file in (*beside, made):
            put(file, within(above, file.relative_to(made.parent).as_posix()))


def failed(row: Row, message: str) -> dict:
    """The record of a row of which there is no result."""
    return {"query": row.query, "output": row.output, "status": "failed", "error": message}


@contextmanager
def _called(local: dict[Path, str]) -> Iterator[None]:
    """Messages name a place as the manifest does, not its copy here."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for path, place in local.items():
            message = message.replace(str(path), place)
        raise InputError(message) from error


def _record(target: str) -> dict | None:
    """The record beside a mask; None where there is none that can be used."""
    try:
        found = parse_json((read(f"{target}.json") or b"").decode("utf-8"))
        return found if isinstance(found, dict) and {"key", "sha256", "query"} <= found.keys() else None
    except ValueError:
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
