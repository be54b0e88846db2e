"""Many queries, one embedding: masks beside a run.json, in a folder."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from iris_core.case import Case, InputError
from iris_core.checkpoint import write_json
from iris_core.embeddings import TaskEmbedding
from nnunet_adapters.images import ending, is_scan, read_scan, stem, write_mask


def expand_queries(paths: tuple[Path, ...]) -> list[Path]:
    """Scans as they are; a folder becomes the scans in it, or is itself one DICOM series if it holds none."""
    queries = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if is_scan(p)) if path.is_dir() else []
        queries += inside or [path]
    return queries


def output_name(query: Path) -> str:
    """The mask of a query is named after it; of a DICOM folder it is a .nii.gz; .mhd becomes one file, .mha."""
    if query.is_dir():
        return query.name + ".nii.gz"
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


def volumes_ml(labels: np.ndarray, embedding: TaskEmbedding, spacing_mm: np.ndarray) -> dict[str, float]:
    """Class name → volume in mL."""
    voxel = float(np.prod(spacing_mm)) / 1000
    return {n: int((labels == v).sum()) * voxel for v, n in zip(embedding.values, embedding.names, strict=True)}


def segment_queries(
    segment: Callable[[TaskEmbedding, Case], np.ndarray],
    embedding: TaskEmbedding,
    queries: list[Path],
    output: Path,
    keep: bool,
    report: dict,
) -> int:
    """Segment every query into ``output``; a failure is reported and the others go on. Returns the exit code.

    keep: leave masks that exist. report: goes into run.json, with an entry a query.
    """
    names = named_outputs(queries)
    entries, failed = {}, 0
    for name, query in tqdm(names.items(), "queries", unit="scan"):
        target = output / name
        if keep and target.is_file():
            entries[name] = {"query": str(query), "status": "kept"}
            continue
        if target.exists() and target.resolve() == query.resolve():
            raise InputError(f"{query}: the result would overwrite the query itself; choose another --output")
        started = time.perf_counter()
        try:
            case = read_scan(query)
            labels = segment(embedding, case)
            write_mask(labels, query, target)
        except InputError as error:
            failed += 1
            entries[name] = {"query": str(query), "status": "failed", "error": str(error)}
            tqdm.write(f"iris: error: {error}", file=sys.stderr)
            continue
        entries[name] = {
            "query": str(query),
            "status": "done",
            "volumes_ml": volumes_ml(labels, embedding, case.spacing_mm),
            "seconds": round(time.perf_counter() - started, 3),
        }
        write_json(output / "run.json", report | {"results": entries})
    if any(e["status"] != "failed" for e in entries.values()):
        write_json(output / "run.json", report | {"results": entries})
    print(f"{len(names) - failed} of {len(names)} queries done: {output}")
    return 1 if failed else 0
