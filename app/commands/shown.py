"""What shows the task, on the command line: references with masks, task files, or known classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from iris_core.case import InputError

StrategyName = Literal["one_shot", "ensemble", "memory_bank", "retrieval", "image_retrieval", "tuning"]
Repeated = tyro.conf.UseAppendAction[tuple[Path, ...]]  # --reference a --reference b


@dataclass(frozen=True)
class Shown:
    """What shows the task: references with their masks, or task files, or both."""

    reference: Repeated = ()
    """Reference scan (.nii, .nii.gz, .nrrd, .mha, .mhd, or a folder of DICOM files). May be repeated."""
    mask: Repeated = ()
    """Its mask: whole numbers, 0 is background, on the reference's grid. One for each reference, in their order."""
    task: Repeated = ()
    """Task file that `iris encode` wrote with the same weights. May be repeated."""
    classes: str = ""
    """Classes that the weights know, for the memory bank: "Dataset004_Hippocampus/Anterior,…". No reference needed."""
    weights: str = "iris-small"
    """Name of released weights or a checkpoint folder."""
    strategy: StrategyName | Literal["auto"] = "auto"
    """How references become a task. auto: one_shot for one, ensemble (their mean) for several, else memory_bank."""
    grid: Literal["auto", "paper"] = "auto"
    """Working spacing: chosen from the references, or the paper's 1.5 mm. Without effect on task files."""
    intensity: Literal["auto", "ct", "percentile"] = "auto"
    """Normalisation: ct for Hounsfield units, percentile for everything else; auto looks at the references."""
    names: tuple[str, ...] = ()
    """Class names as value=name, for example 1=liver 2=spleen."""
    top_k: int = 3
    """References that retrieval averages for a class."""
    seed: int = 0
    """Of the reference that retrieval begins with."""
    steps: int = 40
    """Of in-context tuning."""
    rate: float = 0.01
    """Learning rate of in-context tuning."""
    device: str = "auto"

    def references(self) -> list:
        """The cases that --reference and --mask name."""
        return read_references(self.reference, self.mask, parse_names(self.names))

    def plan(self, service, references: list):
        """T for every query, from all that is shown. Raises InputError where nothing is, or it does not go together."""
        from tqdm import tqdm

        from iris_core.embeddings import context_ensemble
        from iris_core.strategies import Options
        from iris_core.strategies.base import always

        classes = tuple(filter(None, self.classes.split(",")))
        if bool(self.reference or self.task) == bool(classes):
            raise InputError(
                "show --reference with --mask, or --task files, or --classes that the weights know, got"
                f" {len(self.reference)} references, {len(self.task)} task files, {len(classes)} classes"
            )
        strategy = self.strategy
        if strategy == "auto":
            strategy = "memory_bank" if classes else "one_shot" if len(self.reference) == 1 else "ensemble"
        if self.task and strategy not in ("one_shot", "ensemble"):
            raise InputError(f"--task goes with one_shot and ensemble, got --strategy {strategy}")
        found = [service.read_task(path).embedding for path in self.task]
        with tqdm(desc=strategy, disable=len(references) < 2 and strategy != "tuning") as bar:

            def progress(done: int, of: int) -> None:
                bar.total = of
                bar.update(done + 1 - bar.n)

            plan = None
            if references or classes:
                scheme = None if self.intensity == "auto" else self.intensity
                options = Options(self.top_k, self.seed, self.steps, self.rate)
                settings = {"grid": self.grid, "scheme": scheme, "options": options, "progress": progress}
                plan = service.plan(strategy, references, classes, **settings)
        if found:
            shown = [plan(references[0]).embedding] if plan else []
            plan = always(context_ensemble([*shown, *found]))
        return plan


def read_references(scans: tuple[Path, ...], masks: tuple[Path, ...], names: dict[int, str] | None = None) -> list:
    """Cases with labels. Raises InputError where scans and masks do not pair up."""
    from nnunet_adapters.images import read_reference

    if len(scans) != len(masks):
        raise InputError(
            f"--reference and --mask must come in pairs, got {len(scans)} references and {len(masks)} masks"
        )
    return [read_reference(scan, mask, names) for scan, mask in zip(scans, masks, strict=True)]


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
