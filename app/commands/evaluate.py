"""`iris evaluate | advise`. The evaluations that compare no strategies are in probes.py."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from app.commands.references import Repeated, StrategyName, read_references
from iris_core import __version__
from iris_core.case import InputError


@dataclass(frozen=True)
class Evaluate:
    """Dice and surface distance on an nnU-Net raw dataset, on whole volumes in their own grids.

    Queries are the cases of a split, references are drawn at random from the training cases of other patients. A class
    that neither truth nor result shows is not counted; one that only one of them shows counts 0.

    --predictions, --context-test and --ablate do something else instead, see there.
    """

    dataset: str
    """Id or name."""
    output: Path | None = None
    """Where the JSON report goes; a CSV with every value and, for several pools, a figure go beside it."""
    predictions: Path | None = None
    """Folder of masks that exist already: nnU-Net's own summary.json of the split's cases goes into it, or --output."""
    context_test: bool = False
    """Does the model look at its reference? The right one against wrong ones, one-shot."""
    ablate: bool = False
    """One-shot without each part of the task embedding (the paper's Table 4, on trained weights)."""
    weights: str = "iris-small"
    strategy: tuple[StrategyName, ...] = ("one_shot",)
    """One or several: a row each."""
    pool: tuple[str, ...] = ()
    """Sizes of the pool of references, as counts or percentages of the training cases: 1 5 20 or 1% 10% 100%. Without
    it, one_shot draws references for each query on its own."""
    split: Literal["val", "train", "all"] = "val"
    """Cases used as queries. For `all`, references are cases of other patients."""
    draws: int = 5
    """References a query, or pools a size."""
    queries: int | None = None
    """At most so many cases of the split, drawn at random."""
    seed: int = 0
    tolerance_mm: float = 2.0
    """Of the normalised surface distance (NSD)."""
    top_k: int = 3
    steps: int = 40
    rate: float = 0.01
    grid: Literal["auto", "paper"] = "auto"
    device: str = "auto"
    raw_data: Path | None = None
    channel: int = 0
    splits: Path | None = None
    """Folder with <dataset>/splits_final.json, for datasets that the weights have not seen."""

    def run(self) -> int:
        from tqdm import tqdm

        from app.commands.probes import run_ablation, run_context_test, summarise_predictions
        from app.report import write_report
        from app.service import Service
        from iris_core.evaluation.protocol import evaluate, summarise
        from iris_core.strategies import Context, Options
        from nnunet_adapters.raw import evaluation_split, open_dataset

        self._check()
        service = Service(self.weights, self.device)
        known = service.checkpoint
        dataset = open_dataset(self.dataset, self.raw_data, self.channel)
        seen = known.training.get("datasets", {}).get(dataset.name)
        train, val = evaluation_split(dataset, seen, self.splits)
        queries = self._some({"val": val, "train": train, "all": sorted(dataset.files)}[self.split])
        if self.predictions:
            return summarise_predictions(dataset, queries, self.predictions, self.output)
        options = Options(self.top_k, self.seed, self.steps, self.rate)
        context = Context(
            known.model,
            bank=known.bank,
            training=known.training,
            grid=self.grid,
            scheme=dataset.scheme,
            options=options,
        )
        about = {
            "command": ["iris", *sys.argv[1:]],
            "version": __version__,
            "weights": self.weights,
            "weights_sha256": known.sha256,
            "dataset": dataset.name,
            "seen": seen_tag(dataset, known.training.get("datasets", {}), self.split),
            "split": self.split,
            "tolerance_mm": self.tolerance_mm,
        }
        if self.context_test or self.ablate:
            (draws,) = self._draws("one_shot", dataset, queries, train).values()
            if self.ablate:
                return run_ablation(context, dataset, draws, self.tolerance_mm, about, self.output)
            pool = sorted(dataset.files) if self.split == "all" else train
            return run_context_test(context, dataset, draws, pool, about, self.output)
        rows = []
        for strategy in self.strategy:
            for size, draws in self._draws(strategy, dataset, queries, train).items():
                asked = tuple(f"{dataset.name}/{c.name}" for c in dataset.classes) if strategy == "memory_bank" else ()
                work = evaluate(strategy, replace(context, classes=asked), dataset.case, draws, self.tolerance_mm)
                scores, bar = [], tqdm(work, strategy, sum(len(d.queries) for d in draws), unit="query")
                for score in bar:
                    scores.append(score)
                    if (mean := summarise(scores)["mean_dice"]) is not None:
                        bar.set_postfix_str(f"mean Dice {mean:.3f}")
                row = {"strategy": strategy, "pool": size, "share": size / len(train), **summarise(scores)}
                if row["mean_dice"] is None:
                    raise InputError(f"{dataset.name}: no reference drawn shows a class; try more --draws")
                row["seconds_per_query"] = sum(s.seconds for s in scores) / sum(bool(s.dice) for s in scores)
                rows.append(row | {"per_case": [vars(s) for s in scores]})
        write_report(about | {"results": rows}, self.output)
        return 0

    def _check(self) -> None:
        """Raise InputError where options do not go together."""
        asked = sum((self.predictions is not None, self.context_test, self.ablate))
        if asked > 1 or (asked and (self.pool or self.strategy != ("one_shot",))):
            raise InputError(
                "--predictions, --context-test and --ablate are evaluations of their own: one at a time, without"
                f" --strategy and --pool, got {self.strategy}, {self.pool or 'no pool'} and {asked} of them"
            )
        if self.queries is not None and self.queries < 1:
            raise InputError(f"--queries must be 1 or more, got {self.queries}")

    def _some(self, cases: list[str]) -> list[str]:
        if self.queries is None:
            return cases
        import numpy as np

        return sorted(map(str, np.random.default_rng(self.seed).permutation(cases)[: self.queries]))

    def _draws(self, strategy: str, dataset, queries: list[str], train: list[str]) -> dict:
        """Size of the pool → draws."""
        from iris_core.evaluation.protocol import Draw, draw_pairs, draw_pools

        if strategy == "memory_bank":
            return {0: [Draw((), tuple(queries))]}
        if not self.pool or self.split == "all":
            pool = sorted(dataset.files) if self.split == "all" else train
            pairs = draw_pairs(dataset.patients, queries, pool, self.draws, self.seed)
            if strategy != "one_shot" or self.pool or not pairs:
                raise InputError(
                    f"{dataset.name}: one_shot needs references of other patients than the queries, other strategies"
                    f" a --pool and a split, got {strategy}, {self.pool or 'no pool'}, split {self.split!r} with"
                    f" {len(queries)} queries; try --split all, or --pool 1 5 20"
                )
            return {1: [Draw((reference,), (query,)) for reference, query in pairs]}
        sizes = dict.fromkeys(pool_size(size, len(train)) for size in self.pool)
        if strategy == "one_shot":
            sizes = [1]
        return {n: draw_pools(dataset.patients, queries, train, n, self.draws, self.seed) for n in sizes}


@dataclass(frozen=True)
class Advise:
    """Which strategy suits your references? Each is left out in turn and segmented from the others."""

    reference: Repeated = ()
    """Reference scan. Repeat it: two at least, better five. Each is taken for another patient."""
    mask: Repeated = ()
    """Its mask, one for each reference, in their order."""
    dataset: str | None = None
    """Or: id or name of an nnU-Net raw dataset."""
    cases: int = 6
    """References at most, drawn at random."""
    weights: str = "iris-small"
    tolerance_mm: float = 2.0
    seed: int = 0
    device: str = "auto"
    raw_data: Path | None = None

    def run(self) -> int:
        from tqdm import tqdm

        from app.report import print_advice
        from app.service import Service
        from iris_core.evaluation.protocol import Draw, evaluate, leave_one_out, summarise
        from iris_core.strategies import STRATEGIES, Context, Options
        from nnunet_adapters.raw import open_dataset

        if bool(self.dataset) == bool(self.reference):
            raise InputError("either --reference with --mask or --dataset must be given")
        service = Service(self.weights, self.device)
        if self.dataset:
            dataset = open_dataset(self.dataset, self.raw_data)
            read, patients = dataset.case, dataset.patients
        else:
            known = {case.name: case for case in read_references(self.reference, self.mask)}
            read, patients = known.__getitem__, {name: name for name in known}
        draws = leave_one_out(patients, self.cases, self.seed)
        rows = []
        for strategy in [name for name in STRATEGIES if name != "memory_bank"]:
            context = Context(service.checkpoint.model, options=Options(seed=self.seed))
            asked = [Draw(d.references[:1], d.queries) for d in draws] if strategy == "one_shot" else draws
            work = tqdm(evaluate(strategy, context, read, asked, self.tolerance_mm), strategy, len(asked), unit="query")
            scores = list(work)
            seconds = sum(s.seconds for s in scores) / len(scores)
            rows.append({"strategy": strategy, "seconds_per_query": seconds, **summarise(scores)})
        print_advice(rows, len(draws), self.tolerance_mm)
        return 0


def pool_size(text: str, cases: int) -> int:
    """'5' → 5, '10%' → a tenth of the cases, at least one. Raises InputError for anything else."""
    number = text.removesuffix("%")
    if not number.replace(".", "", 1).isdecimal() or (number == text and not text.isdecimal()):
        raise InputError(f"--pool takes counts or percentages such as 5 or 10%, got {text!r}")
    return max(1, round(float(number) / 100 * cases)) if number != text else int(text)


def seen_tag(dataset, training: dict, split: str) -> str:
    """What the weights' training knew of an evaluation's queries: dataset, patients, classes (by name)."""
    if dataset.name not in training:
        known = {name.casefold() for about in training.values() for name in about.get("classes", {})}
        seen = [c.name for c in dataset.classes if c.name.casefold() in known]
        return "unseen dataset, " + (f"seen classes: {', '.join(seen)}" if seen else "unseen classes")
    return "seen dataset, unseen patients" if split == "val" else "seen dataset, patients in training"
