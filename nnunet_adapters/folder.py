"""Many queries, one plan: masks beside a run.json, in a folder."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.files import read_json, write_json
from iris_core.prediction import Prediction
from iris_core.strategies import Plan, QueryTask
from nnunet_adapters.headers import is_scan
from nnunet_adapters.images import read_scan
from nnunet_adapters.outputs import PLAIN, PROBABILITIES, Wanted, output_name, seg_name, write
from nnunet_adapters.statistics import statistics, write_statistics
from nnunet_adapters.voxels import stamp

FAILURES = (InputError, OSError, MemoryError, RuntimeError)
TABLE_LINES = 40
BEGUN, FAILED = "begun", "failed"  # status of a result whose files are being written, or not all could be


def expand_queries(paths: tuple[Path, ...], references: tuple[Path, ...] = ()) -> list[Path]:
    """Scans as they are; a folder becomes the scans in it, or is itself one DICOM series if it holds none.

    Hidden files and ``references``, files that are no queries, are not taken from a folder.
    """
    left_out = {path.resolve() for path in references}
    queries = []
    for path in paths:
        files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
        scans = [p for p in files if is_scan(p)]
        if scans and any(p.name.lower().endswith((".dcm", ".ima")) for p in files):
            raise InputError(f"{path}: must hold scans or one DICOM series, found both; name the files to segment")
        queries += [p for p in scans if p.resolve() not in left_out] if scans else [path]
    return queries


def named_outputs(queries: list[Path], format: str = "query") -> dict[str, Path]:
    """Name of the mask → query. Raises InputError where two queries would write one file."""
    names: dict[str, Path] = {}
    for query in queries:
        name = output_name(query, format)
        if name in names:
            raise InputError(f"{query}: its result would overwrite that of {names[name]}; rename one of the two")
        names[name] = query
    return names


def volumes_ml(
    labels: np.ndarray, values: tuple[int, ...], names: tuple[str, ...], voxel_ml: float
) -> dict[str, float]:
    """Class name → volume in mL."""
    return {name: int((labels == value).sum()) * voxel_ml for value, name in zip(values, names, strict=True)}


@dataclass(frozen=True)
class Part:
    """One of several processes that share a folder of queries, as in nnU-Net: every ``of``-th query from ``number``."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(f"--part-id must be from 0 to --num-parts - 1, got {self.number} of {self.of}")

    def named(self, file: str) -> str:
        """A file's name, such as "run.json", or that of the part: "run_part0_of_2.json"."""
        bare, _, end = file.partition(".")
        return file if self.of == 1 else f"{bare}_part{self.number}_of_{self.of}.{end}"


def segment_queries(
    predict: Callable[[TaskEmbedding, Case], Prediction],
    plan: Plan,
    confidence: Callable[[Case, np.ndarray, TaskEmbedding], dict[str, float]],
    queries: list[Path],
    references: tuple[Path, ...],
    output: Path,
    keep: bool,
    report: dict,
    part: Part = Part(),
    wanted: Wanted = PLAIN,
) -> int:
    """Segment every query into ``output``; a failure is reported and the others go on. Returns the exit code.

    The next scan is read and the last mask written while one is decoded; at most two scans wait.
    plan: T for a query. confidence: of a query, its labels and their T, per class; {} for none.
    references: their files, which no result may replace. keep: leave masks that exist. report: goes into
    run.json, with an entry a query. wanted: what is written of each.

    Raises InputError before any work if a result would replace a file that no former run wrote.
    """
    names = named_outputs(queries, wanted.format)
    former = former_results(output)
    scans = {p.resolve() for p in (*queries, *references)}
    for name, query in names.items():
        target = output / name
        if target.resolve() in scans:
            raise InputError(f"{query}: its result would overwrite {target}; choose another --output")
        beside = query.is_dir() and wanted.format == "query"
        written = (target, output / seg_name(name)) if beside else (target,)
        for path in written:
            if path.exists() and not keep and name not in former:
                raise InputError(f"{path}: exists and is no result of a former run; move it or choose another --output")
    run_file, *tables = (output / part.named(file) for file in ("run.json", "statistics.csv", "statistics.json"))
    more = [output / PROBABILITIES] * wanted.probabilities + tables * wanted.statistics
    for path in more:
        if path.exists() and not former:
            raise InputError(f"{path}: exists and is of no former run; choose another --output")
    names = dict(list(names.items())[part.number :: part.of])
    unfinished = {name for name, entry in former.items() if entry.get("status") in (BEGUN, FAILED)}
    there = [name for name in names if keep and name not in unfinished and (output / name).is_file()]
    entries = {name: former.get(name, {"query": str(names[name])}) | {"status": "kept"} for name in there}
    work = [(name, query) for name, query in names.items() if name not in entries]

    def record(name: str, entry: dict) -> None:
        entries[name] = entry
        if any(e["status"] != FAILED for e in entries.values()) or run_file.is_file():
            write_json(run_file, report | {"results": entries})

    def fail(name: str, error: Exception) -> None:
        query = str(names[name])
        message = str(error) if query in str(error) else f"{query}: {error or type(error).__name__}"
        tqdm.write(f"iris: error: {message}", file=sys.stderr)
        record(name, {"query": query, "status": FAILED, "error": message})

    def finish(name: str, written: Future, entry: dict, before: list) -> None:
        try:
            said = written.result()
            if stamp(names[name]) != before:  # the mask has the new scan's header, and the old one's labels
                (output / name).unlink(missing_ok=True)
                raise InputError(f"{names[name]}: was changed while it was segmented; run again for its mask")
            record(name, entry | said)
        except FAILURES as error:
            fail(name, error)

    if there:
        record(there[-1], entries[there[-1]])
    bar = tqdm(total=len(names), initial=len(there), desc="queries", unit="scan")
    last = None
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, bar:
        for name, query, read in _ahead(reader, work):
            started = time.perf_counter()
            try:
                case, before = read.result()
                query_task = plan(case)
                task = query_task.embedding
                prediction = predict(task, case)
                labels = wanted.labels(prediction, task.values, case.voxel_ml)
                if last:
                    finish(*last)
                record(name, {"query": str(query), "status": BEGUN})
                written = writer.submit(write, labels, query, output / name, task, wanted, prediction)
                trust = confidence(case, labels, task)
                entry = entry_of(query, case, query_task, labels, trust, time.perf_counter() - started)
                if wanted.statistics:
                    entry["statistics"] = statistics(case, labels, task.values, task.names, trust)
                last = name, written, entry, before
            except FAILURES as error:
                fail(name, error)
            bar.update()
        if last:
            finish(*last)
    done = sum(entry["status"] != FAILED for entry in entries.values())
    _print_table(entries)
    if wanted.statistics and done:
        rows = [{"scan": name} | row for name, entry in entries.items() for row in entry.get("statistics", ())]
        write_statistics(rows, *tables)
        if lacking := sum(e["status"] == "kept" and "statistics" not in e for e in entries.values()):
            print(f"{tables[0].name} lacks {lacking} results that a run without --statistics left")
    print(f"{done} of {len(names)} queries done: {output}")
    return 0 if done == len(names) else 1


def _ahead(reader: ThreadPoolExecutor, work: list[tuple[str, Path]]) -> Iterator[tuple[str, Path, Future]]:
    """Each query with its scan, while the next one is being read."""
    waiting: deque[tuple[str, Path, Future]] = deque()
    for name, query in work:
        waiting.append((name, query, reader.submit(_stamped, query)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _stamped(query: Path) -> tuple[Case, list]:
    before = stamp(query)
    return read_scan(query), before


def entry_of(
    query: Path | str, case: Case, query_task: QueryTask, labels: np.ndarray, trust: dict[str, float], seconds: float
) -> dict:
    """What run.json says of one query."""
    task = query_task.embedding
    return {
        "query": str(query),
        "status": "done",
        "classes": dict(zip(map(str, task.values), task.names, strict=True)),
        "spacing_mm": task.spacing_mm,
        "intensity": task.scheme,
        "volumes_ml": volumes_ml(labels, task.values, task.names, case.voxel_ml),
        "confidence": {name: round(value, 4) for name, value in trust.items()},
        **({"notes": query_task.notes} if query_task.notes else {}),
        "seconds": round(seconds, 3),
    }


def _print_table(entries: dict[str, dict]) -> None:
    """A line a query: volumes and confidences, or why there are none. The middle of a long list is left out."""
    lines = []
    for name, entry in entries.items():
        cells = []
        for c, volume in entry.get("volumes_ml", {}).items():
            trust = entry["confidence"].get(c)
            cells.append(f"{c} {volume:.2f} mL" + ("" if trust is None else f" (confidence {trust:.2f})"))
        lines.append(f"{name:32} {entry['status']:6}  {', '.join(cells[:4])}{' …' if len(cells) > 4 else ''}")
    hidden = len(lines) - TABLE_LINES
    if hidden > 0:
        half = TABLE_LINES // 2
        lines = [*lines[:half], f"… {hidden} more in run.json …", *lines[-half:]]
    print("\n".join(lines))


def former_results(output: Path) -> dict[str, dict]:
    """The entries of the reports that lie in the folder already."""
    found = {}
    for path in sorted(output.glob("run*.json")):
        try:
            found |= read_json(path)["results"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
