"""The child that reads spoilt files: a line of JSON in (kind, folder), one out (outcome, said, seconds, mib).

Outcomes: "read", the file was taken, and what came of it is sound; "refused", an InputError that says which file;
anything else is a defect. A crash or a case that takes too long is seen by the parent, runner.py.
"""

import faulthandler
import itertools
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from samples import STRUCTURES

from app.drawing import read_drawing
from app.uploads import gather
from iris_core import checkpoint
from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding, context_ensemble, only
from iris_core.geometry import oriented
from iris_core.pool import open_pool
from iris_core.strategies.memory_bank import known_classes
from iris_core.task_file import load_task, read_about
from nnunet_adapters.images import read_reference, read_scan, write_mask
from nnunet_adapters.label_maps import open_label_maps
from nnunet_adapters.masks import WRITERS
from nnunet_adapters.outputs import output_name
from nnunet_adapters.raw import open_dataset, split

SPACE = 4 * 2**30  # address space beyond what the libraries take
MIB = 256  # resident memory that a sample of a MiB at most may take
LONGEST_MESSAGE = 4000  # characters: a page must be able to show it
WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
FORBIDDEN = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")


class Watched:
    """What is written where it must not be, or leaves the process; seen by Python's audit hooks."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.found: list[str] = []
        sys.addaudithook(self._seen)

    def _seen(self, event: str, arguments: tuple) -> None:
        if self.root is None:
            return
        if event in FORBIDDEN:
            self.found.append(f"{event} {arguments[:2]}")
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITE
        if writes or event in CHANGES:
            paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
            for path in (os.fsdecode(p) for p in paths if isinstance(p, (str, bytes, os.PathLike))):
                place = os.path.realpath(path)
                if not place.startswith(str(self.root) + os.sep) and place != os.devnull:
                    self.found.append(f"{event} {path}")


def scan(name: str):
    def read(folder: Path) -> None:
        sound(case := read_scan(folder / name))
        labels = np.zeros(case.image.shape, np.int32)
        labels[tuple(n // 2 for n in labels.shape)] = 1
        write_mask(labels, folder / name, folder / "out" / output_name(folder / name))

    return read


def uploaded(name: str):
    def read(folder: Path) -> None:
        (series,) = gather([folder / name], folder / "queries")
        sound(read_scan(series))

    return read


def mask(name: str, of: str = "scan.nii.gz"):
    def read(folder: Path) -> None:
        sound(case := read_reference(folder / of, folder / name))
        assert case.present(), "a mask without a structure"
        structures = [replace_name(c) for c in case.present()]
        WRITERS["nii.gz"](case.labels, folder / of, structures, folder / "out" / "result.nii.gz")
        WRITERS["seg.nrrd"](case.labels, folder / of, structures, folder / "out" / "result.seg.nrrd")
        if of == "series":
            WRITERS["rtstruct"](case.labels, folder / of, structures, folder / "out" / "result.dcm")

    return read


def replace_name(c):
    return type(STRUCTURES[0])(c.value, c.name, (1, 2, 3))


def raw(folder: Path) -> None:
    dataset = open_dataset("901", folder / "raw")
    for name in dataset.files:
        sound(dataset.case(name))


def splits(folder: Path) -> None:
    dataset = open_dataset("901", folder / "raw")
    train, val = split(dataset, folder / "splits")
    assert all(case in dataset.files for case in [*train, *val]), "a split of cases that are not there"


def names(folder: Path) -> None:
    maps = open_label_maps(folder / "maps")
    for name in maps.files:
        sound(maps.numbered(name))
    json.dumps(maps.index([], []))


def weights(folder: Path) -> None:
    loaded = checkpoint.load(folder / "weights")
    for name, about in known_classes(loaded.bank, loaded.training).items():
        f"{name:44s} {about['updates']:13d} {about['spacing_mm']:12.2f}   {about['scheme']}"  # as `iris classes` does
    assert all(torch.isfinite(p).all() for p in loaded.model.parameters()), "weights that are no numbers"


def sound(case: Case) -> None:
    assert case.image.ndim == 3 and case.image.dtype == np.float32 and np.isfinite(case.image).all(), "image"
    assert case.affine.shape == (4, 4) and np.isfinite(case.affine).all(), "affine"
    image, spacing = oriented(case, case.image)
    assert image.size == case.image.size and 0 < min(spacing) <= max(spacing) < np.inf, f"spacing {spacing}"
    assert 0 < case.voxel_ml < np.inf, f"voxel of {case.voxel_ml} mL"
    if case.labels is not None:
        assert case.labels.shape == case.image.shape and case.labels.dtype.kind in "iu", "labels"
        assert all(isinstance(c.name, str) and c.name.strip() for c in case.classes), "names"
        assert all(0 <= v < 256 for rgb in case.colours.values() for v in rgb), "colours"


class Learnt:
    """Readers that need the model which made the samples."""

    def __init__(self, folder: Path) -> None:
        self.loaded = checkpoint.load(folder)

    def task(self, folder: Path) -> None:
        path = folder / "hippocampus.task.safetensors"
        self.usable(load_task(path, self.loaded.model, self.loaded.sha256))
        read_about(path)

    def usable(self, embedding: TaskEmbedding) -> None:
        assert isinstance(embedding, TaskEmbedding) and len(embedding.values) == len(embedding.names) > 0
        context_ensemble([embedding, embedding])
        only(embedding, list(embedding.names[:1]))

    def pool(self, folder: Path) -> None:
        def stale(name: str) -> Case:
            raise InputError(f"{folder / 'pool'}: must be encoded anew")

        for known in open_pool(folder / "pool", self.loaded, "Dataset901", {"a": "1"}, stale, "auto", "percentile"):
            self.usable(known.embedding)
            assert known.descriptor is not None and torch.isfinite(known.descriptor).all(), "descriptor"


def readers(root: Path) -> dict:
    learnt = Learnt(root / "weights")
    return {
        "nifti": scan("scan.nii"),
        "nifti gz": scan("scan.nii.gz"),
        "nrrd": scan("scan.nrrd"),
        "nrrd gz": scan("scan.nrrd"),
        "mha": scan("scan.mha"),
        "mha packed": scan("scan.mha"),
        "mhd": scan("scan.mhd"),
        "mhd packed": scan("scan.mhd"),
        "dicom file": uploaded("scan.dcm"),
        "dicom series": scan("series"),
        "dicom zip": uploaded("series.zip"),
        "mask nifti": mask("mask.nii.gz"),
        "mask mha": mask("mask.mha"),
        "dicom-seg": mask("mask.dcm", "series"),
        "rtstruct": mask("mask.dcm", "series"),
        "seg.nrrd": mask("mask.seg.nrrd"),
        "label description": mask("mask.nii.gz"),
        "mask dataset.json": mask("mask.nii.gz"),
        "raw dataset": raw,
        "patients.json": splits,
        "splits_final.json": splits,
        "names.json": names,
        "task file": learnt.task,
        "checkpoint": weights,
        "pool": learnt.pool,
        "drawing": lambda folder: read_drawing(folder / "drawing.nii.gz", (38, 51, 37), 2),
    }


def _outside(folder: Path) -> None:
    (folder.parent.parent / "outside.txt").write_text("")


def _quoting(folder: Path) -> None:
    raise InputError("something is wrong")


PROBES = {  # what must be noticed: they show that the harness does
    "died": lambda folder: os.abort(),
    "too long": lambda folder: all(itertools.count(1)),
    "memory": lambda folder: np.ones(2 * MIB * 2**17).sum(),
    "written outside": _outside,
    "KeyError": lambda folder: {}["a"],
    "names no file": _quoting,
}


def tried(read, folder: Path, watched: Watched) -> dict:
    """What comes of reading one folder."""
    there = {part.name for part in folder.rglob("*")}
    started, before = time.perf_counter(), _peak_mib(reset=True)
    watched.root, watched.found = folder.resolve(), []
    try:
        read(folder)
        outcome, said = "read", ""
    except InputError as error:
        outcome, said = "refused", str(error)
        if not any(name in said for name in there | {folder.name}) and "the drawing" not in said:
            outcome = "names no file"
        elif len(said) > LONGEST_MESSAGE:
            outcome, said = "long message", f"{len(said)} characters: {said[:300]}"
    except BaseException as error:  # whatever it is, it is what we look for
        trace, places = error.__traceback__, []
        while trace:
            places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        outcome, said = type(error).__name__, f"{str(error)[:300]} at {' '.join(places[1:6])} … {places[-1]}"
    watched.root = None
    grown = _peak_mib() - before
    if watched.found:
        outcome, said = "written outside", "; ".join(watched.found[:3])
    elif grown > MIB and outcome in ("read", "refused"):
        outcome, said = "memory", f"{grown:.0f} MiB; {outcome} {said[:300]}"
    return {"outcome": outcome, "said": said, "seconds": time.perf_counter() - started, "mib": grown}


def _peak_mib(reset: bool = False) -> float:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    sys.dont_write_bytecode = True
    root = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # the libraries print what they like
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    watched, known = Watched(), readers(root)
    probes = {f"probe {kind}": probe for kind, probe in PROBES.items()}
    for kind in known:  # the first time, libraries import more of themselves
        folder = root / kind.replace(" ", "-")
        known[kind](folder) if sys.argv[2:] == ["--warm"] else None
    _limit()
    print(json.dumps({"outcome": "ready"}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(tried((known | probes)[asked["kind"]], Path(asked["folder"]), watched)), file=answers)


if __name__ == "__main__":
    main()
