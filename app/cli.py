"""The command line: `iris train | encode | segment | classes | evaluate | advise | app`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from iris_core import __version__
from iris_core.case import InputError

StrategyName = Literal["one_shot", "ensemble", "memory_bank", "retrieval", "image_retrieval", "tuning"]
Repeated = tyro.conf.UseAppendAction[tuple[Path, ...]]  # --reference a --reference b


@dataclass(frozen=True)
class Train:
    """Train on nnU-Net raw datasets; leaves a weights folder that segment, evaluate and app take."""

    datasets: tuple[str, ...]
    """Ids or names of raw datasets, for example 4 Dataset101_SunnybrookLV."""
    output: Path
    """Folder of the run: weights, log.csv, TensorBoard, state, splits and cache."""
    preset: Literal["small", "base", "tiny"] = "small"
    iterations: int | None = None
    """Length of the run, and of the learning rate's decay. Default 80000, or as many as --minutes allows."""
    minutes: float | None = None
    """Time box: learning rate and end follow the clock instead."""
    batch: int = 2
    """Episodes an iteration."""
    synthetic: float = 0.6
    """Share of synthetic episodes: painted on label maps, or warped and recoloured from scans."""
    label_maps: tuple[Path, ...] = ()
    """Folders of label maps without images (.nii.gz), for synthetic episodes."""
    learning_rate: float = 4e-3
    seed: int = 0
    workers: int = 1
    """Processes that make episodes."""
    validate_every: int = 1000
    """Iterations between one-shot Dice on validation patients."""
    save_every: int = 200
    """Iterations between saved states."""
    resume: bool = False
    """Go on with the run in --output."""
    start_from: str | None = None
    """Weights (name or folder, of the same preset) to begin with instead of random ones."""
    device: str = "auto"
    raw_data: Path | None = None
    """Folder of raw datasets; default the environment's nnUNet_raw."""
    channel: int = 0
    """Image channel of datasets that have several."""
    splits: Path | None = None
    """Folder with <dataset>/splits_final.json to use or to write; default nnUNet_preprocessed, else the run's."""
    cache: Path | None = None
    """Training cache to use or to make; default OUTPUT/cache. Where there are no raw datasets it is enough."""

    def run(self) -> int:
        from tqdm import tqdm

        from app.service import pick_device
        from iris_core.model.iris import PRESETS
        from iris_core.training.loop import TrainConfig, train
        from nnunet_adapters.raw import prepare_training, splits_folder
        from weights import find_weights

        cache = self.cache or self.output / "cache"
        config = TrainConfig(
            iterations=self.iterations or (10**9 if self.minutes else 80_000),
            minutes=self.minutes,
            batch=self.batch,
            synthetic=self.synthetic,
            learning_rate=self.learning_rate,
            seed=self.seed,
            workers=self.workers,
            validate_every=self.validate_every,
            save_every=self.save_every,
        )
        splits = splits_folder(self.splits, self.output)
        index = prepare_training(
            self.datasets,
            self.label_maps,
            self.raw_data,
            self.channel,
            splits,
            cache,
            lambda work: tqdm(work, "cache", unit="case"),
        )
        start = find_weights(self.start_from) if self.start_from else None
        train(cache, index, self.output, PRESETS[self.preset], config, pick_device(self.device), self.resume, start)
        print(f"weights: {self.output}")
        return 0


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


@dataclass(frozen=True)
class Encode(Shown):
    """Write what references show as a task file: small, without voxels, to keep, to send, to segment with."""

    output: Path = tyro.MISSING
    """The task file, *.task.safetensors."""

    def run(self) -> int:
        from app.service import Service

        if not self.output.name.endswith(".task.safetensors"):
            raise InputError(f"{self.output}: the name of a task file must end in .task.safetensors")
        if "retrieval" in self.strategy:
            raise InputError(f"{self.strategy} makes another task for every query: there is none to write")
        service = Service(self.weights, self.device)
        embedding = self.plan(service, self.references())(None).embedding
        made_from = [path.name for path in (*self.reference, *self.mask, *self.task)]
        service.write_task(self.output, embedding, tuple(made_from))
        print(f"{', '.join(embedding.names)}: {self.output}, {self.output.stat().st_size / 2**20:.1f} MiB")
        return 0


@dataclass(frozen=True)
class Segment(Shown):
    """Segment queries as the references show. Each result lies on its query's own grid and is named after it."""

    query: tuple[Path, ...] = tyro.MISSING
    """Scans, or folders of scans."""
    output: Path = tyro.MISSING
    """Folder for the masks and run.json."""
    continue_: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """Leave results that exist already."""
    num_parts: int = 1
    """Share the queries among several processes, as in nnU-Net …"""
    part_id: int = 0
    """… of which this is one, from 0."""
    confidence: bool = True
    """Estimate each result's quality: segment the reference with the result as its mask. Costs as much again."""

    def run(self) -> int:
        from app.service import Service
        from nnunet_adapters.folder import Part, expand_queries, segment_queries

        part = Part(self.part_id, self.num_parts)
        service = Service(self.weights, self.device)
        shown = (*self.reference, *self.mask, *self.task)
        queries = expand_queries(self.query, shown)
        references = self.references()
        plan = self.plan(service, references)
        report = {
            "command": ["iris", *sys.argv[1:]],
            "version": __version__,
            "weights": self.weights,
            "weights_sha256": service.checkpoint.sha256,
            "strategy": self.strategy,
            "references": [str(path) for path in self.reference],
            "masks": [str(path) for path in self.mask],
            "tasks": [str(path) for path in self.task],
            "known_classes": self.classes,
        }

        def confidence(query, labels, embedding):
            return service.confidence(references if self.confidence else [], query, labels, embedding)

        kept = self.output, self.continue_, report, part
        return segment_queries(service.segment, plan, confidence, queries, shown, *kept)


@dataclass(frozen=True)
class Classes:
    """List the classes that the weights know, for --classes."""

    weights: str = "iris-small"
    """Name of released weights or a checkpoint folder."""

    def run(self) -> int:
        from app.service import Service
        from iris_core.strategies.memory_bank import known_classes

        known = Service(self.weights, "cpu").checkpoint
        print("class                                     seen in episodes   spacing mm   intensities")
        for name, about in known_classes(known.bank, known.training).items():
            print(f"{name:44s} {about['updates']:13d} {about['spacing_mm']:12.2f}   {about['scheme']}")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Dice and surface distance on an nnU-Net raw dataset, on whole volumes in their own grids.

    Queries are the cases of a split, references are drawn at random from the training cases of other patients. A class
    that neither truth nor result shows is not counted; one that only one of them shows counts 0.
    """

    dataset: str
    """Id or name."""
    output: Path | None = None
    """Where the JSON report goes; a CSV with every value and, for several pools, a figure go beside it."""
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

        from app.report import write_report
        from app.service import Service
        from iris_core.evaluation.protocol import evaluate, summarise
        from iris_core.strategies import Given, Options
        from nnunet_adapters.raw import evaluation_split, open_dataset

        service = Service(self.weights, self.device)
        known = service.checkpoint
        dataset = open_dataset(self.dataset, self.raw_data, self.channel)
        seen = known.training.get("datasets", {}).get(dataset.name)
        train, val = evaluation_split(dataset, seen, self.splits)
        queries = {"val": val, "train": train, "all": sorted(dataset.files)}[self.split]
        options = Options(self.top_k, self.seed, self.steps, self.rate)
        given = Given(known.model, (), (), known.bank, known.training, self.grid, dataset.scheme, options)
        rows = []
        for strategy in self.strategy:
            for size, draws in self._draws(strategy, dataset, queries, train).items():
                asked = tuple(f"{dataset.name}/{c.name}" for c in dataset.classes) if strategy == "memory_bank" else ()
                work = evaluate(strategy, replace(given, classes=asked), dataset.case, draws, self.tolerance_mm)
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
        report = {
            "command": ["iris", *sys.argv[1:]],
            "version": __version__,
            "weights": self.weights,
            "weights_sha256": known.sha256,
            "dataset": dataset.name,
            "seen": seen_tag(bool(seen), self.split),
            "split": self.split,
            "tolerance_mm": self.tolerance_mm,
            "results": rows,
        }
        write_report(report, self.output)
        return 0

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
        from iris_core.strategies import STRATEGIES, Given, Options
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
            given = Given(service.checkpoint.model, options=Options(seed=self.seed))
            asked = [Draw(d.references[:1], d.queries) for d in draws] if strategy == "one_shot" else draws
            work = tqdm(evaluate(strategy, given, read, asked, self.tolerance_mm), strategy, len(asked), unit="query")
            scores = list(work)
            seconds = sum(s.seconds for s in scores) / len(scores)
            rows.append({"strategy": strategy, "seconds_per_query": seconds, **summarise(scores)})
        print_advice(rows, len(draws), self.tolerance_mm)
        return 0


@dataclass(frozen=True)
class App:
    """Open the page: show one scan with its mask, segment the rest, look at it in 3D."""

    weights: str = "iris-small"
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    sample: bool = False
    """Open with a sample already segmented."""
    open_browser: bool = True

    def run(self) -> int:
        from app.ui import launch

        launch(self.weights, self.device, self.host, self.port, self.sample, self.open_browser)
        return 0


COMMANDS = {
    "train": Train,
    "encode": Encode,
    "segment": Segment,
    "classes": Classes,
    "evaluate": Evaluate,
    "advise": Advise,
    "app": App,
}


def read_references(scans: tuple[Path, ...], masks: tuple[Path, ...], names: dict[int, str] | None = None) -> list:
    """Cases with labels. Raises InputError where scans and masks do not pair up."""
    from nnunet_adapters.images import read_reference

    if len(scans) != len(masks):
        raise InputError(
            f"--reference and --mask must come in pairs, got {len(scans)} references and {len(masks)} masks"
        )
    return [read_reference(scan, mask, names) for scan, mask in zip(scans, masks, strict=True)]


def pool_size(text: str, cases: int) -> int:
    """'5' → 5, '10%' → a tenth of the cases, at least one. Raises InputError for anything else."""
    number = text.removesuffix("%")
    if not number.replace(".", "", 1).isdecimal() or (number == text and not text.isdecimal()):
        raise InputError(f"--pool takes counts or percentages such as 5 or 10%, got {text!r}")
    return max(1, round(float(number) / 100 * cases)) if number != text else int(text)


def seen_tag(seen: bool, split: str) -> str:
    """What the weights' training knew of an evaluation's queries."""
    if not seen:
        return "unseen dataset"
    return "seen dataset, unseen patients" if split == "val" else "seen dataset, patients in training"


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


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done; 1 some queries failed; 2 bad input; 130 interrupted."""
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="iris", args=arguments)
    try:
        return command.run()
    except InputError as error:
        print(f"iris: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"iris: {error or 'interrupted'}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
