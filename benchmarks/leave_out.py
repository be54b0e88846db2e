"""One-shot Dice on datasets that a model was not trained on: what its weights do on a stranger's scan.

    python benchmarks/leave_out.py --output runs/leave_out [--minutes 12] [--seeds 0 1] [--models A B] [--pairs 8]

Trains the models of MODELS from random weights (or takes those that are in --output; a run that was interrupted goes
on) and measures each, on pairs of the sets it never saw (pairs.json), by its parts as parts.py does. Sets are left out
in two groups, so that two models a seed cover them all: each saw neither the set nor the others of its group. Models
are the preset `small` with a window of 64 voxels, so that minutes tell something. Give each of two processes a core and
a model of their own (`taskset -c 0 … --models A`, `taskset -c 1 … --models B`), then ask for the table of both.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import parts
import torch
from pairs import DATA
from results import measure_all, rows
from tqdm import tqdm

from iris_core.model.iris import PRESETS
from iris_core.training.loop import TrainConfig, train
from nnunet_adapters.raw import match_dataset, prepare_training

MODELS = {  # trained on: datasets, label maps; sets tested
    "A": (
        ("101", "102", "105", "106", "108", "109", "110", "111"),
        ("anatomy",),
        (
            "hippocampus",
            "head-neck CT",
            "prostate US",
            "fetal atlas",
            "torso CT-MR",
            "brain, one contrast",
            "brain, two contrasts",
        ),
    ),
    "B": (
        ("4", "103", "104", "107", "112", "113"),
        ("brain",),
        (
            "heart",
            "fetal brain",
            "spinal cord",
            "vertebrae",
            "lesion",
            "sarcoma CT",
            "sarcoma MR",
            "sarcoma PET",
            "anatomy, one contrast",
            "anatomy, two contrasts",
        ),
    ),
}


def trained(model: str, seed: int, output: Path, minutes: float, cache: Path) -> Path:
    folder = output / f"{model}{seed}"
    if not (folder / "done").exists():
        identifiers = tuple(i for datasets, _, _ in MODELS.values() for i in datasets)
        maps = tuple(DATA / "label_maps" / name for _, names, _ in MODELS.values() for name in names)
        raw, splits = DATA / "nnUNet_raw", Path("weights/splits")
        index = prepare_training(identifiers, maps, raw, 0, splits, cache, lambda work: tqdm(work, "cache"))
        datasets, names, _ = MODELS[model]
        wanted = [*datasets, *(f"label_maps_{name}" for name in names)]
        index = {name: index[name] for name in (match_dataset(i, sorted(index), cache) for i in wanted)}
        config = TrainConfig(iterations=10**9, minutes=minutes, workers=1, validate_every=10**9, seed=seed)
        shape = replace(PRESETS["small"], window=64)
        train(cache, index, folder, shape, config, torch.device("cpu"), resume=folder.exists())
        (folder / "done").touch()
    return folder / "average"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most")
    parser.add_argument("--cache", type=Path, help="shared by several outputs; default OUTPUT/cache")
    arguments = parser.parse_args()
    found: dict[tuple[str, int, str], list[float]] = {}
    for seed in arguments.seeds:
        for model in arguments.models:
            cache = arguments.cache or arguments.output / "cache"
            weights = trained(model, seed, arguments.output, arguments.minutes, cache)
            table = arguments.output / f"{model}{seed}.csv"
            measure_all(str(weights), table, MODELS[model][2], arguments.pairs, parts.measure)
            for row in rows(table):
                found.setdefault((row["set"], seed, row["method"]), []).append(float(row["dice"]))
    seeds = "/".join(map(str, arguments.seeds))
    print(f"{'one-shot Dice, seeds ' + seeds:24s}" + "".join(f"{part:>21s}" for part in parts.PARTS))
    means = []
    for name in dict.fromkeys(name for name, _, _ in found):
        by_seed = [[np.mean(found[name, seed, part]) for seed in arguments.seeds] for part in parts.PARTS]
        means.append(np.mean(by_seed, 1))
        print(f"{name:24s}" + "".join(f"{'/'.join(f'{v:.3f}' for v in values):>21s}" for values in by_seed))
    print(f"{'mean of sets':24s}" + "".join(f"{mean:21.3f}" for mean in np.mean(means, 0)))


if __name__ == "__main__":
    main()
