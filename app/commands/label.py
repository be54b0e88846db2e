"""`iris label`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from app.commands.references import ReferenceOptions
from iris_core.case import InputError

FOLDS = 5  # nnU-Net's cross-validation needs a case for each


@dataclass(frozen=True)
class Label(ReferenceOptions):
    """Make an nnU-Net raw dataset of references with their masks, and of queries segmented as they show."""

    query: tuple[Path, ...] = tyro.MISSING
    """Scans, or folders of scans."""
    output: Path = tyro.MISSING
    """The dataset's folder, DatasetNNN_Name. Beside nnU-Net's files it has cases.csv, and in masks/ each result."""
    min_confidence: float = 0.5
    """A scan in which a structure's confidence (0 to 1) is below stays out of the dataset; cases.csv lists it."""
    continue_: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """Leave results that exist already, and choose among them anew."""

    def run(self) -> int:
        from app.service import Service
        from app.viewers.colours import colour
        from nnunet_adapters.folder import expand_queries, former_results, named_outputs, segment_queries
        from nnunet_adapters.new_dataset import Labelled, case_names, check_target, reference_labels, write_dataset
        from nnunet_adapters.outputs import Wanted

        if not self.reference or self.task or self.pool or self.classes:
            raise InputError("iris label learns from --reference and --mask alone: their true masks become cases too")
        if not 0 <= self.min_confidence <= 1:
            raise InputError(f"--min-confidence must be from 0 to 1, got {self.min_confidence}")
        queries = expand_queries(self.query, self.reference_files)
        check_target(self.output, (*queries, *self.reference_files))
        case_names((*self.reference, *queries))
        service = Service(self.weights, self.device)
        references = self.references()
        names = list(dict.fromkeys(c.name for case in references for c in case.present()))
        if reserved := {"background", "ignore"} & set(names):
            raise InputError(f"nnU-Net keeps the name {reserved.pop()!r} for itself; name the structure with --names")
        plan, trust, masks = (
            self.plan(service, references),
            partial(service.confidence, references),
            self.output / "masks",
        )
        wanted = Wanted("nii.gz", colour=lambda index, name: colour(names.index(name)))
        kept = masks, self.continue_, self.report(service)
        code = segment_queries(service.predict, plan, trust, queries, self.reference_files, *kept, wanted=wanted)
        results = former_results(masks)
        if not results:
            return code
        cases = []
        for scan, case in zip(self.reference, references, strict=True):
            lacks = [name for name in names if name not in {c.name for c in case.present()}]
            left_out = f"its mask lacks {', '.join(lacks)}" if lacks else ""
            cases.append(Labelled(scan, partial(reference_labels, case, names), left_out=left_out))
        for mask, query in named_outputs(queries, "nii.gz").items():
            cases.append(self._labelled(query, masks / mask, results.get(mask, {}), names))
        schemes = {entry["intensity"] for entry in results.values() if "intensity" in entry}
        number = write_dataset(
            self.output,
            cases,
            names,
            [colour(index) for index in range(len(names))],
            "ct" if schemes == {"ct"} else "percentile",
            f"Made by iris label from {len(references)} true masks; all other labels are estimates, see cases.csv",
        )
        print(f"labels: {', '.join(f'{i} {name}' for i, name in enumerate(names, 1))}")
        print(f"{number} of {len(cases)} scans are cases, see {self.output / 'cases.csv'}")
        if number < FOLDS:
            print(f"nnU-Net's five folds need {FOLDS} cases: add scans, or lower --min-confidence with --continue")
        return code

    def _labelled(self, query: Path, mask: Path, entry: dict, names: list[str]):
        from nnunet_adapters.new_dataset import Labelled, mask_labels

        trust = entry.get("confidence", {})
        low = [f"{name} {trust.get(name, 0):.2f}" for name in names if trust.get(name, 0) < self.min_confidence]
        why = entry.get("error", "it was not segmented") if "classes" not in entry else ""
        if low and not why:
            why = f"confidence below {self.min_confidence}: {', '.join(low)}"
        return Labelled(query, partial(mask_labels, mask, entry.get("classes", {}), names), trust, why)
