"""One-shot Dice on datasets that a model was not trained on: what its weights do on a stranger's scan.

    python benchmarks/leave_out.py --output runs/leave_out [--minutes 10] [--seeds 0 1] [-- options of iris train]

Trains every model of MODELS (or takes those that are there), evaluates each on the sets it never saw, prints a table.
Sets are left out in two groups, so that two models a seed cover them all: each saw neither the set nor the others of
its group. Painted brains are maps that no model painted in training.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from held_out import BRAIN_TEST, LABEL_MAPS, SETS, held_out

MODELS = {  # datasets trained on, sets tested
    "A": (("101", "102", "105"), ("hippocampus", "torso CT-MR", "lesion", "painted brain")),
    "B": (("4", "103", "104", "106"), ("heart", "fetal brain")),
}


def trained(model: str, seed: int, minutes: float, output: Path, extra: list[str]) -> Path:
    folder = output / f"{model}{seed}"
    if not (folder / "model.safetensors").exists():
        maps = output / "label_maps" / "brain"
        maps.mkdir(parents=True, exist_ok=True)
        for path in LABEL_MAPS.glob("*.nii.gz"):
            link = maps / path.name
            if not any(path.name == f"training_seg_{n}.nii.gz" for n in BRAIN_TEST) and not link.exists():
                link.symlink_to(path.resolve())
        command = [sys.executable, "-m", "app.cli", "train", "--datasets", *MODELS[model][0], "--seed", str(seed)]
        command += ["--minutes", str(minutes), "--validate-every", str(10**9), "--output", str(folder)]
        command += ["--cache", str(output / "cache"), "--splits", str(output / "splits"), "--label-maps", str(maps)]
        subprocess.run([*command, *extra], check=True)
    return folder


def evaluated(folder: Path, sets: tuple[str, ...], raw_data: Path | None) -> dict[str, list[float]]:
    from app.service import Service
    from iris_core.case import Case

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
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--raw-data", type=Path)
    arguments, extra = parser.parse_known_args()
    results = {name: {} for name in SETS}
    for seed in arguments.seeds:
        for model, (_, sets) in MODELS.items():
            folder = trained(model, seed, arguments.minutes, arguments.output, [e for e in extra if e != "--"])
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
