"""Where the rows of an archive are worked on. An engine takes them as files of rows, and yields their records."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.archive.manifest import Row
from app.archive.places import is_remote, needed, opened
from app.archive.worker import Worker
from iris_core.case import InputError

if TYPE_CHECKING:
    from app.commands.segment import Segment

BATCH = 16  # rows that an actor takes at once; of a short manifest less, so that all have work
READING = 0.1  # of a CPU, left by each actor to what reads the rows


def local(command: "Segment", files: list[str], number: int) -> Iterator[dict]:
    """One after the other, here."""
    from pyarrow import parquet

    worker = Worker(command)
    for file in files:
        with opened(file) as stream:
            for cells in parquet.ParquetFile(stream).read().to_pylist():
                yield worker(Row(**cells))


def ray(command: "Segment", files: list[str], number: int) -> Iterator[dict]:
    """On a Ray cluster, by Ray Data: it streams, starts actors, starts those anew that die, and repeats their rows.

    As many actors as there are GPUs, or where there are none CPUs; each holds the model once.
    """
    ray = needed("ray", "--engine ray")
    needed("ray.data", "--engine ray")
    if Path(command.weights).is_dir():  # an actor has another working folder
        command = replace(command, weights=str(Path(command.weights).absolute()))
    address = command.engine.partition(":")[2] or None
    ray.init(address, log_to_driver=False, logging_level="error", **({} if address else {"include_dashboard": False}))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        resources = ray.cluster_resources()
        actors = max(1, int(resources.get("GPU") or resources["CPU"]))
        share = {"num_gpus": 1} if resources.get("GPU") else {"num_cpus": 1 - READING}
        batch = max(1, min(BATCH, number // (4 * actors)))
        rows = ray.data.read_parquet(
            files,
            filesystem=_file_system(files[0]),
            ray_remote_args={"num_cpus": READING},
            override_num_blocks=-(-number // batch),
        )
        found = rows.map_batches(
            _Batches,
            fn_constructor_args=(command,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            **share,
        )
        for record in found.iter_rows():
            yield json.loads(record["record"])
    finally:
        ray.shutdown()


class _Batches(Worker):
    """A worker as Ray Data calls it: columns of rows → a column of records."""

    def __call__(self, batch: dict) -> dict:
        rows = [Row(*map(str, cells)) for cells in zip(*(batch[name] for name in Row.__match_args__), strict=True)]
        return {"record": [json.dumps(Worker.__call__(self, row)) for row in rows]}


def _file_system(place: str):
    from fsspec.core import url_to_fs

    return url_to_fs(place)[0] if is_remote(place) else None


def engine(name: str):
    """Raises InputError for one that there is not."""
    kind, colon, address = name.partition(":")
    if name == "local":
        return local
    if kind != "ray" or (colon and not address):
        raise InputError(f"--engine must be local, ray, or ray:ADDRESS such as ray:10.0.0.1:6379, got {name}")
    return ray
