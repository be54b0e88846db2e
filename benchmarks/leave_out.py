"""One-shot Dice on datasets that a model was not trained on: what its weights do on a stranger's scan.

    python benchmarks/leave_out.py --output runs/leave_out [--minutes 8] [--seeds 0 1] [--synthetic 0.6]
                                   [--off registration …] [--window 64]

Trains the models of MODELS from random weights (or takes those that are in --output; a run that was interrupted goes
on), evaluates each on the sets it never saw, and prints a table. Sets are left out in two groups, so that two models a
seed cover them all: each saw neither the set nor the others of its group. Painted brains are maps that no model
painted in training. Models are the preset `small` with a smaller window, so that minutes tell something.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from held_out import BRAIN_TEST, LABEL_MAPS, SETS, held_out
from tqdm import tqdm

from app.service import Service
from iris_core.case import Case
from iris_core.model.iris import PRESETS, IrisConfig
from iris_core.training.loop import TrainConfig, train
from nnunet_adapters.raw import prepare_training

MODELS = {  # datasets trained on, sets tested
    "A": (("101", "102", "105"), ("hippocampus", "torso CT-MR", "lesion", "painted brain")),
    "B": (("4", "103", "104", "106"), ("heart", "fetal brain")),
}


def training_maps(output: Path) -> Path:
    """A folder with the brain maps that are not tested on."""
    folder = output / "label_maps" / "brain"
    folder.mkdir(parents=True, exist_ok=True)
    for path in LABEL_MAPS.glob("*.nii.gz"):
        if not any(path.name == f"training_seg_{n}.nii.gz" for n in BRAIN_TEST) and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    return folder


def trained(
    model: str, seed: int, output: Path, config: TrainConfig, shape: IrisConfig, cache: Path, raw_data: Path | None
) -> Path:
    folder = output / f"{model}{seed}"
    if not (folder / "done").exists():
        maps, splits = (training_maps(cache),), cache / "splits"
        index = prepare_training(MODELS[model][0], maps, raw_data, 0, splits, cache, lambda work: tqdm(work, "cache"))
        train(cache, index, folder, shape, replace(config, seed=seed), torch.device("cpu"), resume=folder.exists())
        (folder / "done").touch()
    return folder


def evaluated(folder: Path, sets: tuple[str, ...], raw_data: Path | None) -> dict[str, list[float]]:
    service, scores = Service(str(folder)), {}
    for name in sets:
        path = folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            found = []
            for pair in held_out(name, raw_data):
                asked = Case(pair.query.image, pair.query.affine, name=pair.query.name)
                found.append(pair.dice(service.segment(service.encode(pair.reference), asked)))
            path.write_text(json.dumps(found))
        scores[name] = json.loads(path.read_text())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--synthetic", type=float, default=TrainConfig.synthetic)
    parser.add_argument("--off", nargs="*", default=[], help="switches of IrisConfig to turn off")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--cache", type=Path, help="shared by several outputs; default OUTPUT/cache")
    parser.add_argument("--raw-data", type=Path)
    arguments = parser.parse_args()
    config = TrainConfig(
        iterations=10**9, minutes=arguments.minutes, synthetic=arguments.synthetic, workers=1, validate_every=10**9
    )
    shape = replace(PRESETS["small"], window=arguments.window, **dict.fromkeys(arguments.off, False))
    results = {name: {} for name in SETS}
    for seed in arguments.seeds:
        for model, (_, sets) in MODELS.items():
            cache = arguments.cache or arguments.output / "cache"
            folder = trained(model, seed, arguments.output, config, shape, cache, arguments.raw_data)
            for name, scores in evaluated(folder, sets, arguments.raw_data).items():
                results[name][seed] = float(np.mean(scores))
    print("one-shot Dice" + "".join(f"  seed {s}" for s in arguments.seeds) + "    mean")
    means = []
    for name, by_seed in results.items():
        means.append(np.mean(list(by_seed.values())))
        print(f"{name:13s}" + "".join(f"{by_seed[s]:8.3f}" for s in arguments.seeds) + f"{means[-1]:8.3f}")
    print(f"{'mean of sets':13s}" + " " * 8 * len(arguments.seeds) + f"{np.mean(means):8.3f}")


if __name__ == "__main__":
    main()
