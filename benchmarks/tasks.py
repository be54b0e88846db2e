"""Tasks against generalisation (the paper's Figure 6): one-shot Dice on three datasets that no model saw, of models
that learnt for equal minutes from 1, 3, 6 and 11 datasets; and from 11 with 0, 2, 5, 10 and 20 query tokens.

    python benchmarks/tasks.py --output runs/tasks [--minutes 12] [--models "1 datasets" …] [--figure docs/tasks.png]

Left out of all are a CT, an MR and an ultrasound; vertebrae and a prostate are also in the torso's CT, which all but
the first model saw. No label maps: what a model paints, it paints from its own datasets.
Dice is the head's, without registration, and the whole's, on the pairs of pairs.json; registration alone learns
nothing. Goes on where it stopped; give each of two processes a core and models of their own, then ask for the table.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from leave_out import SHAPE, trained
from matplotlib.figure import Figure
from parts import measure
from results import means, measure_all, rows

SETS = "head-neck CT", "vertebrae", "prostate US"
ORDER = "4", "101", "103", "102", "104", "105", "106", "108", "109", "110", "113"  # each number takes the first ones
NUMBERS = 1, 3, 6, 11
TOKENS = 0, 2, 5, 10, 20
MODELS = {  # datasets trained on, query tokens
    **{f"{n} datasets": (ORDER[:n], SHAPE.query_tokens) for n in NUMBERS},
    **{f"{n} tokens": (ORDER, n) for n in TOKENS if n != SHAPE.query_tokens},
}
ALONE, *LEARNT = PARTS = "registration", "head", "whole"


def figure(of_models: dict[str, dict[str, float]], path: Path) -> None:
    """Dice against datasets, and against query tokens; means over the sets."""
    drawn = Figure(figsize=(9, 3.4), layout="constrained")
    axes = drawn.subplots(1, 2, sharey=True)
    tokens = {n: f"{n} tokens" if n != SHAPE.query_tokens else f"{max(NUMBERS)} datasets" for n in TOKENS}
    for axis, models, label in zip(
        axes,
        ({n: f"{n} datasets" for n in NUMBERS}, tokens),
        ("datasets trained on", "query tokens"),
        strict=True,
    ):
        shown = {n: of_models[model] for n, model in models.items() if model in of_models}
        for part in LEARNT:
            axis.plot(list(shown), [of[part] for of in shown.values()], marker="o", label=part)
        alone = [of[ALONE] for of in shown.values()]
        axis.plot(list(shown), alone, linestyle="--", color="grey", label="registration alone")
        axis.set_xlabel(label)
        axis.set_xticks(list(shown))
    axes[0].set_ylabel("one-shot Dice, unseen datasets")
    axes[0].legend()
    drawn.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most")
    parser.add_argument("--cache", type=Path, help="shared by several outputs; default OUTPUT/cache")
    parser.add_argument("--figure", type=Path, help="a picture of the table")
    arguments = parser.parse_args()
    cache, of_models = arguments.cache or arguments.output / "cache", {}
    print(f"{'one-shot Dice':14s}" + "".join(f"{name:>26s}" for name in (*SETS, "mean of sets")))
    print(" " * 14 + f"{'head':>13s}{'whole':>13s}" * (len(SETS) + 1))
    for model in arguments.models:
        datasets, tokens = MODELS[model]
        folder = arguments.output / model.replace(" ", "_")
        weights = trained(folder, datasets, (), arguments.minutes, cache, shape=replace(SHAPE, query_tokens=tokens))
        table = folder.with_suffix(".csv")
        measure_all(str(weights), table, SETS, arguments.pairs, partial(measure, methods=PARTS))
        dice = means(rows(table))
        by_set = [{part: dice[name, part] for part in PARTS} for name in SETS]
        of_models[model] = {part: float(np.mean([of[part] for of in by_set])) for part in PARTS}
        scores = [of[part] for of in (*by_set, of_models[model]) for part in LEARNT]
        print(f"{model:14s}" + "".join(f"{score:13.3f}" for score in scores), flush=True)
    print(f"registration alone: {of_models[arguments.models[0]][ALONE]:.3f} in the mean of sets")
    if arguments.figure:
        figure(of_models, arguments.figure)


if __name__ == "__main__":
    main()
