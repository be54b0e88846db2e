"""What `iris evaluate` does besides comparing strategies: --predictions, --context-test, --ablate."""

import math
from dataclasses import replace
from pathlib import Path

from iris_core.case import InputError


def summarise_predictions(dataset, cases: list[str], predictions: Path, output: Path | None) -> int:
    """Write nnU-Net's summary.json of masks that exist already, and print its means."""
    from nnunet_adapters.summary import write_summary

    output = output or predictions / "summary.json"
    result = write_summary(dataset, cases, predictions, output)
    line = "{:32} {:>7} {:>7} {:>6}"
    print(line.format("class", "Dice", "IoU", "cases"))
    for c in dataset.classes:
        key = c.members if c.members in result["mean"] else c.members[0]  # nnunetv2's: a region or a label
        means = result["mean"][key]
        counted = sum(not math.isnan(entry["metrics"][key]["Dice"]) for entry in result["metric_per_case"])
        print(line.format(c.name[:32], f"{means['Dice']:.3f}", f"{means['IoU']:.3f}", counted))
    means = result["foreground_mean"]
    print(line.format("mean", f"{means['Dice']:.3f}", f"{means['IoU']:.3f}", len(cases)))
    print(f"{dataset.name}: {output}")
    return 0


def run_context_test(context, dataset, draws: list, pool: list[str], about: dict, output: Path | None) -> int:
    """Right and wrong references for the same queries: a table and a verdict. pool: cases of other patients."""
    from tqdm import tqdm

    from iris_core.evaluation.context import context_test, summarise_context, verdict
    from iris_core.files import write_json

    pairs = [(draw.references[0], query) for draw in draws for query in draw.queries]
    work = context_test(context, dataset.case, pairs, dataset.patients, pool, context.options.seed)
    trials = [trial for of_pair in tqdm(work, "context test", len(pairs), unit="pair") for trial in of_pair]
    if not trials:
        raise InputError(f"{dataset.name}: no reference drawn shows a class that its query has; try more --draws")
    rows = summarise_context(trials)
    line = "{:34} {:>7} {:>18} {:>5}"
    print(line.format("the reference shows", "Dice", "with what it shows", "n"))
    for row in rows:
        values = ("-" if v is None else f"{v:.3f}" for v in (row["mean_dice"], row.get("mean_dice_shown")))
        print(line.format(row["reference_shows"], *values, row["n"]))
    said = verdict(rows)
    print(f"{_origin(about)}\n{said}")
    if output:
        write_json(output, about | {"verdict": said, "results": rows, "trials": [vars(t) for t in trials]})
    return 0


def run_ablation(context, dataset, draws: list, tolerance_mm: float, about: dict, output: Path | None) -> int:
    """One-shot with all of T, and without each of its parts."""
    from tqdm import tqdm

    from iris_core.evaluation.ablation import Ablated, parts_of
    from iris_core.evaluation.protocol import evaluate, summarise
    from iris_core.files import write_json

    line = "{:26} {:>7} {:>8} {:>10} {:>8}"
    queries = sum(len(draw.queries) for draw in draws)
    rows = []
    for part in (None, *parts_of(context.model.config)):
        model = Ablated(context.model, part) if part else context.model
        work = evaluate("one_shot", replace(context, model=model), dataset.case, draws, tolerance_mm)
        scores = list(tqdm(work, f"without {part}" if part else "all", queries, unit="query"))
        row = {"without": part, **summarise(scores)}
        if row["mean_dice"] is None:
            raise InputError(f"{dataset.name}: no reference drawn shows a class; try more --draws")
        rows.append(row | {"per_case": [vars(s) for s in scores]})
    print(line.format("", "Dice", "change", f"NSD {tolerance_mm:g} mm", "queries"))
    for row in rows:
        name, change = f"without {row['without']}" if row["without"] else "all", row["mean_dice"] - rows[0]["mean_dice"]
        values = f"{row['mean_dice']:.3f}", f"{change:+.3f}" * bool(row["without"]), f"{row['mean_surface_dice']:.3f}"
        print(line.format(name, *values, queries))
    print(_origin(about))
    if output:
        write_json(output, about | {"results": rows})
    return 0


def _origin(about: dict) -> str:
    return f"{about['dataset']}, {about['seen']}, weights {about['weights_sha256'][:12]}"
