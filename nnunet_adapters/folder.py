"""Many queries, one plan: masks beside a run.json, in a folder."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from iris_core.case import Case, InputError
from iris_core.checkpoint import write_json
from iris_core.embeddings import TaskEmbedding
from iris_core.strategies import Plan
from nnunet_adapters.headers import ending, is_scan
from nnunet_adapters.images import read_scan, stem, write_mask


def expand_queries(paths: tuple[Path, ...], shown: tuple[Path, ...] = ()) -> list[Path]:
    """Scans as they are; a folder becomes the scans in it, or is itself one DICOM series if it holds none.

    Hidden files and what was ``shown`` (the reference and its mask) are not taken from a folder.
    """
    known = {path.resolve() for path in shown}
    queries = []
    for path in paths:
        files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
        scans = [p for p in files if is_scan(p)]
        if scans and any(p.name.lower().endswith((".dcm", ".ima")) for p in files):
            raise InputError(f"{path}: must hold scans or one DICOM series, found both; name the files to segment")
        queries += [p for p in scans if p.resolve() not in known] if scans else [path]
    return queries


def output_name(query: Path) -> str:
    """The mask of a query is named after it; of a DICOM folder it is a .nii.gz; .mhd becomes one file, .mha."""
    if query.is_dir():
        return query.resolve().name + ".nii.gz"
    return stem(query) + (".mha" if ending(query) == ".mhd" else ending(query))


def named_outputs(queries: list[Path]) -> dict[str, Path]:
    """Name of the mask → query. Raises InputError where two queries would write one file."""
    names: dict[str, Path] = {}
    for query in queries:
        name = output_name(query)
        if name in names:
            raise InputError(f"{query}: its result would overwrite that of {names[name]}; rename one of the two")
        names[name] = query
    return names


def volumes_ml(
    labels: np.ndarray, values: tuple[int, ...], names: tuple[str, ...], spacing_mm: np.ndarray
) -> dict[str, float]:
    """Class name → volume in mL."""
    voxel = float(np.prod(spacing_mm)) / 1000
    return {name: int((labels == value).sum()) * voxel for value, name in zip(values, names, strict=True)}


def segment_queries(
    segment: Callable[[TaskEmbedding, Case], np.ndarray],
    plan: Plan,
    confidence: Callable[[Case, np.ndarray, TaskEmbedding], dict[str, float]],
    queries: list[Path],
    shown: tuple[Path, ...],
    output: Path,
    keep: bool,
    report: dict,
) -> int:
    """Segment every query into ``output``; a failure is reported and the others go on. Returns the exit code.

    plan: T for a query. confidence: of a query, its labels and their T, per class; {} for none.
    shown: the reference and its mask, which no result may replace. keep: leave masks that exist. report: goes into
    run.json, with an entry a query. Raises InputError before any work if a result would replace a file that no
    former run wrote.
    """
    names = named_outputs(queries)
    former = _former_results(output)
    for name, query in names.items():
        target = output / name
        if target.resolve() in {p.resolve() for p in (*queries, *shown)}:
            raise InputError(f"{query}: its result would overwrite {target}; choose another --output")
        if target.exists() and not keep and name not in former:
            raise InputError(f"{target}: exists and is no result of a former run; move it or choose another --output")
    entries: dict[str, dict] = {}
    for name, query in tqdm(names.items(), "queries", unit="scan"):
        target = output / name
        if keep and target.is_file():
            entries[name] = former.get(name, {"query": str(query)}) | {"status": "kept"}
            continue
        started = time.perf_counter()
        try:
            case = read_scan(query)
            chosen = plan(case)
            task = chosen.embedding
            labels = segment(task, case)
            write_mask(labels, query, target)
            trust = confidence(case, labels, task)
        except (InputError, OSError, MemoryError, RuntimeError) as error:
            message = str(error) if str(query) in str(error) else f"{query}: {error or type(error).__name__}"
            entries[name] = {"query": str(query), "status": "failed", "error": message}
            tqdm.write(f"iris: error: {message}", file=sys.stderr)
            continue
        entries[name] = {
            "query": str(query),
            "status": "done",
            "classes": dict(zip(map(str, task.values), task.names, strict=True)),
            "spacing_mm": task.spacing_mm,
            "intensity": task.scheme,
            "volumes_ml": volumes_ml(labels, task.values, task.names, case.spacing_mm),
            "confidence": {name: round(value, 4) for name, value in trust.items()},
            **({"notes": chosen.notes} if chosen.notes else {}),
            "seconds": round(time.perf_counter() - started, 3),
        }
        write_json(output / "run.json", report | {"results": entries})
    done = [entry for entry in entries.values() if entry["status"] != "failed"]
    if done:
        write_json(output / "run.json", report | {"results": entries})
    print(f"{len(done)} of {len(names)} queries done: {output}")
    return 0 if len(done) == len(names) else 1


def _former_results(output: Path) -> dict[str, dict]:
    """The entries of a run.json that lies in the folder already."""
    try:
        return json.loads((output / "run.json").read_text("utf-8"))["results"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
