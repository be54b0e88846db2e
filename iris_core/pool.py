"""A pool of references on disk: every case encoded once, brought up to date when cases come, change or go."""

import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch

from iris_core.case import Case, InputError
from iris_core.checkpoint import Checkpoint, read_json, write_json
from iris_core.strategies.base import EncodedReference
from iris_core.strategies.image_retrieval import descriptor
from iris_core.strategies.references import encode_at, shared_scale
from iris_core.task_file import load_task, save_task

INDEX = "pool.json"


def open_pool(
    folder: Path,
    checkpoint: Checkpoint,
    dataset: str,
    sources: dict[str, str],
    read: Callable[[str], Case],
    grid: str,
    scheme: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[EncodedReference]:
    """The cases of a dataset as references; those that show nothing are left out.

    folder: holds a task file a case and pool.json; made where it is missing, begun anew where it is of other weights,
    another grid or scheme, and kept up to date after every case, so that an interrupted run goes on.
    sources: case → what it is made from; another value means that the case has changed. The working spacing is
    chosen when the pool is first encoded, and stays. progress: called with cases done, all.
    Raises InputError where the folder is another dataset's pool, or no case shows a class.
    """
    index = _read(folder / INDEX, dataset, checkpoint.sha256, grid, scheme)
    model = checkpoint.model
    if "spacing_mm" not in index:
        index["spacing_mm"], _ = shared_scale(model, _showing(sources, read, dataset), grid, scheme)
    for name in [name for name in index["cases"] if name not in sources]:
        del index["cases"][name]
        _file(folder, name).unlink(missing_ok=True)
    pool = []
    for done, (name, source) in enumerate(sources.items()):
        progress(done, len(sources))
        entry = index["cases"].get(name)
        encoded = _stored(folder, name, entry, source, checkpoint)
        if encoded is None and not (entry and entry["source"] == source and entry["descriptor"] is None):
            case = read(name)
            entry = {"source": source, "descriptor": None}
            if case.present():
                embedding = encode_at(model, case, index["spacing_mm"], scheme, grid == "auto")
                entry["descriptor"] = descriptor(model, case, scheme).tolist()
                save_task(_file(folder, name), embedding, checkpoint.sha256, (name,))
                encoded = EncodedReference(name, embedding, torch.tensor(entry["descriptor"]))
            index["cases"][name] = entry
            write_json(folder / INDEX, index)
        if encoded:
            pool.append(encoded)
    write_json(folder / INDEX, index)
    return pool


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.task.safetensors"


def _read(path: Path, dataset: str, weights_sha256: str, grid: str, scheme: str) -> dict:
    """pool.json if it can be continued, else an empty one."""
    wanted = {"dataset": dataset, "weights_sha256": weights_sha256, "grid": grid, "scheme": scheme}
    if not path.is_file():
        return wanted | {"cases": {}}
    try:
        found = read_json(path)
        spacing_mm, cases = float(found["spacing_mm"]), dict(found["cases"])
        usable = 0 < spacing_mm < math.inf and all(
            {"source", "descriptor"} <= {**entry}.keys() for entry in cases.values()
        )
        of = found["dataset"]
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not usable as the index of a pool: {error!r}; delete it or name another") from error
    if of != dataset:
        raise InputError(f"{path}: is the pool of {of}, asked was {dataset}; choose another folder")
    return found if usable and wanted.items() <= found.items() else wanted | {"cases": {}}


def _showing(names: Collection[str], read: Callable[[str], Case], dataset: str) -> Iterator[Case]:
    """The cases that show a class, one after the other."""
    empty = True
    for case in map(read, names):
        if case.present():
            empty = False
            yield case
    if empty:
        raise InputError(f"{dataset}: a pool needs cases that show a class, none of {len(names)} does")


def _stored(
    folder: Path, name: str, entry: dict | None, source: str, checkpoint: Checkpoint
) -> EncodedReference | None:
    """A case as it was kept; None where it is not, or not as it should be."""
    if not entry or entry["source"] != source or not entry["descriptor"] or not _file(folder, name).is_file():
        return None
    try:
        embedding = load_task(_file(folder, name), checkpoint.model, checkpoint.sha256)
        kept = torch.tensor(entry["descriptor"], dtype=torch.float32)
    except (ArithmeticError, InputError, RuntimeError, TypeError, ValueError):  # torch's own, for what is no number
        return None
    usable = kept.shape == (checkpoint.model.config.widths[-1],) and torch.isfinite(kept).all()
    return EncodedReference(name, embedding, kept) if usable else None
