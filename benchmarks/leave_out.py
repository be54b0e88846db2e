"""One-shot Dice on datasets that a model was not trained on: what its weights do on a stranger's scan.

    python benchmarks/leave_out.py --output runs/leave_out [--minutes 12] [--seeds 0 1] [--models A B] [--pairs 8]

Trains the models of MODELS from random weights (or takes those that are in --output; a run that was interrupted goes
on) and measures each, on pairs of the sets it never saw (pairs.json), by its parts as parts.py does. Sets are left out
in two groups, so that models A and B of a seed cover them all: each saw neither the set nor the others of its group.
Models are the preset `small` with a window of 64 voxels, so that minutes tell something. Give each of two processes a
core and a model of their own (`taskset -c 0 … --models A`, `taskset -c 1 … --models B`), then ask for the table.

Model C leaves out a CT and an MR alone, for an hour or more: `--models C --seeds 0 --minutes 65`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import parts
import torch
from pairs import DATA
from results import means, measure_all, rows
from tqdm import tqdm

from iris_core.model.iris import PRESETS, IrisConfig
from iris_core.training.loop import TrainConfig, train
from nnunet_adapters.raw import prepare_training

SHAPE = replace(PRESETS["small"], window=64)
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
    "C": (
        ("4", "102", "103", "104", "105", "106", "108", "109", "110", "111", "112", "113"),
        ("brain", "anatomy"),
        ("head-neck CT", "heart"),
    ),
}


def trained(
    folder: Path,
    datasets: Sequence[str],
    maps: Sequence[str],
    minutes: float,
    cache: Path,
    seed: int = 0,
    shape: IrisConfig = SHAPE,
) -> Path:
    """The weights in ``folder``: trained from random ones if there are none yet. maps: folders of label maps."""
    if not (folder / "done").exists():
        folders = tuple(DATA / "label_maps" / name for name in maps)
        raw, splits = DATA / "nnUNet_raw", Path("weights/splits")
        index = prepare_training(tuple(datasets), folders, raw, 0, splits, cache, lambda work: tqdm(work, "cache"))
        config = TrainConfig(iterations=10**9, minutes=minutes, workers=1, validate_every=10**9, seed=seed)
        train(cache, index, folder, shape, config, torch.device("cpu"), resume=folder.exists())
        (folder / "done").touch()
    return folder / "average"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["A", "B"])
    parser.add_argument("--pairs", type=int, default=8, help="of a set, at most")
    parser.add_argument("--cache", type=Path, help="shared by several outputs; default OUTPUT/cache")
    arguments = parser.parse_args()
    cache = arguments.cache or arguments.output / "cache"
    found: dict[tuple[str, int, str], float] = {}
    for seed in arguments.seeds:
        for model in arguments.models:
            datasets, maps, sets = MODELS[model]
            folder = arguments.output / f"{model}{seed}"
            weights = trained(folder, datasets, maps, arguments.minutes, cache, seed)
            table = folder.with_suffix(".csv")
            measure_all(str(weights), table, sets, arguments.pairs, parts.measure)
            found |= {(name, seed, part): dice for (name, part), dice in means(rows(table)).items()}
    seeds = "/".join(map(str, arguments.seeds))
    print(f"{'one-shot Dice, seeds ' + seeds:24s}" + "".join(f"{part:>21s}" for part in parts.PARTS))
    of_sets = []
    for name in dict.fromkeys(name for name, _, _ in found):
        by_seed = [[found[name, seed, part] for seed in arguments.seeds] for part in parts.PARTS]
        of_sets.append(np.mean(by_seed, 1))
        print(f"{name:24s}" + "".join(f"{'/'.join(f'{v:.3f}' for v in values):>21s}" for values in by_seed))
    print(f"{'mean of sets':24s}" + "".join(f"{mean:21.3f}" for mean in np.mean(of_sets, 0)))


if __name__ == "__main__":
    main()
