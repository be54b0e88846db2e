"""References on the command line: scans with masks, task files, a pool, or classes that the weights know."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from iris_core import __version__
from iris_core.case import InputError

StrategyName = Literal["one_shot", "ensemble", "memory_bank", "retrieval", "image_retrieval", "tuning"]
JUDGES = 10  # cases of a pool that are read for the estimate of quality
Repeated = tyro.conf.UseAppendAction[tuple[Path, ...]]  # --reference a --reference b


@dataclass(frozen=True)
class ReferenceOptions:
    """References: scans with their masks, or task files, or both."""

    reference: Repeated = ()
    """Reference scan (.nii, .nii.gz, .nrrd, .mha, .mhd, or a folder of DICOM files). May be repeated."""
    mask: Repeated = ()
    """Its mask, on the reference's grid: a scan's format with whole numbers, 0 is background; 3D Slicer's .seg.nrrd; or
    a DICOM-SEG or RTSTRUCT (.dcm). One for each reference, in their order."""
    resample_mask: bool = False
    """Bring a mask that lies on another grid to its reference's, instead of refusing it."""
    task: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Task file that `iris encode` wrote with the same weights, or hf://owner/name[@revision]/file.task.safetensors on
    the Hub. May be repeated."""
    pool: str | None = None
    """Id or name of an nnU-Net raw dataset: each of its labelled cases is a reference. They are encoded once."""
    index: Path | None = None
    """Folder of the encoded pool, kept up to date; default one in ~/.cache/iris/pools for each dataset and weights."""
    raw_data: Path | None = None
    """Folder of raw datasets; default the environment's nnUNet_raw."""
    channel: int = 0
    """Image channel of a pool that has several."""
    classes: str = ""
    """Classes that the weights know, for the memory bank: "Dataset004_Hippocampus/Anterior,…". No reference needed."""
    weights: str = "iris-small"
    """Name of released weights, a checkpoint folder, or owner/name[@revision] on the Hugging Face Hub."""
    strategy: StrategyName | Literal["auto"] = "auto"
    """How references become a task. auto: one_shot for one, ensemble (their mean) for several, else memory_bank."""
    grid: Literal["auto", "paper"] = "auto"
    """Working spacing: chosen from the references, or the paper's 1.5 mm. Without effect on task files."""
    intensity: Literal["auto", "ct", "percentile"] = "auto"
    """Normalisation: ct for Hounsfield units, percentile for everything else; auto looks at the references."""
    names: tuple[str, ...] = ()
    """Class names as value=name, for example 1=liver 2=spleen; they go before names in the mask's file."""
    only: tuple[str, ...] = ()
    """Of the structures that references show only these, by name, for example liver spleen."""
    top_k: int = 3
    """References that retrieval averages for a class."""
    seed: int = 0
    """Of the reference that retrieval begins with."""
    steps: int = 40
    """Of in-context tuning."""
    rate: float = 0.01
    """Learning rate of in-context tuning."""
    device: str = "auto"

    @property
    def reference_files(self) -> tuple[Path, ...]:
        """Scans, masks and task files: no queries, and to be left as they are."""
        return (*self.reference, *self.mask, *map(Path, self.task))

    def report(self, service) -> dict:
        """What run.json says of a run besides its results."""
        return {
            "command": ["iris", *sys.argv[1:]],
            "version": __version__,
            "weights": self.weights,
            "weights_sha256": service.checkpoint.sha256,
            "strategy": self.strategy,
            "references": [str(path) for path in self.reference],
            "masks": [str(path) for path in self.mask],
            "tasks": list(self.task),
            "pool": self.pool,
            "known_classes": self.classes,
        }

    def references(self) -> list:
        """The cases that --reference and --mask name; those of --pool too where their scans themselves are wanted."""
        cases = read_references(self.reference, self.mask, parse_names(self.names), self.resample_mask)
        if self.pool and self.strategy == "tuning":
            dataset = self._dataset()
            cases += [case for case in map(dataset.case, sorted(dataset.files)) if case.present()]
        return self._chosen(cases)

    def _chosen(self, cases: list) -> list:
        """The same cases, each with the classes of --only."""
        if not self.only:
            return cases
        if self.task or self.classes or (self.pool and self.strategy != "tuning"):
            raise InputError("--only chooses structures of --reference; it cannot go with --task, --pool or --classes")
        shown = {c.name for case in cases for c in case.present()}
        if missing := set(self.only) - shown:
            raise InputError(f"--only names {sorted(missing)}, the references show {sorted(shown)}")
        return [replace(case, classes=tuple(c for c in case.classes if c.name in self.only)) for case in cases]

    def plan(self, service, references: list):
        """The task for every query. Raises InputError where there are no references or they do not go together."""
        from iris_core.strategies import Options
        from weights.hub import find_task

        classes = tuple(filter(None, self.classes.split(",")))
        encoded = [service.read_task(find_task(name)) for name in self.task]
        if self.pool and self.strategy != "tuning":
            with _Bar("pool") as bar:
                encoded += service.pool(self._dataset(), self.index, self.grid, bar.progress)
        with _Bar(self.strategy, hidden=len(references) < 2 and self.strategy != "tuning") as bar:
            return service.plan(
                self.strategy,
                references,
                encoded,
                classes=classes,
                grid=self.grid,
                scheme=None if self.intensity == "auto" else self.intensity,
                options=Options(self.top_k, self.seed, self.steps, self.rate),
                progress=bar.progress,
            )

    def judges(self, references: list) -> list:
        """Cases that say how good a result is: the references, else the first of the pool that show its classes."""
        if references or not self.pool:
            return references
        dataset, cases, seen = self._dataset(), [], set()
        for name in sorted(dataset.files)[:JUDGES]:
            case = dataset.case(name)
            if new := {c.name for c in case.present()} - seen:
                cases.append(case)
                seen |= new
        return cases

    def _dataset(self):
        from nnunet_adapters.raw import open_dataset

        return open_dataset(self.pool, self.raw_data, self.channel)


class _Bar:
    """A progress bar that learns its length with the first step."""

    def __init__(self, name: str, hidden: bool = False) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=name, disable=hidden)

    def progress(self, done: int, of: int) -> None:
        self._bar.total = of
        self._bar.update(done + 1 - self._bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()


def read_references(
    scans: tuple[Path, ...], masks: tuple[Path, ...], names: dict[int, str] | None = None, resample: bool = False
) -> list:
    """Cases with labels. Raises InputError where scans and masks do not pair up."""
    from nnunet_adapters.images import read_reference

    if len(scans) != len(masks):
        raise InputError(
            f"--reference and --mask must come in pairs, got {len(scans)} references and {len(masks)} masks"
        )
    return [read_reference(scan, mask, names, resample) for scan, mask in zip(scans, masks, strict=True)]


def parse_names(pairs: tuple[str, ...]) -> dict[int, str]:
    """('1=liver', …) → {1: 'liver'}. Raises InputError for another form and for a value or name given twice."""
    names = {}
    for pair in pairs:
        value, _, name = pair.partition("=")
        if not name or not value.lstrip("-").isdecimal():
            raise InputError(f"class names must be value=name, got {pair!r}")
        if int(value) in names or name in names.values():
            raise InputError(f"class names must differ, and name each value once, got {pair!r} too")
        names[int(value)] = name
    return names
