"""How well the confidence ranks the true Dice, over good and deliberately bad references.

    python benchmarks/confidence.py [--weights iris-small] [--pairs 25]

For each dataset, validation patients are segmented with references of training patients: as they are, with the mask
moved by a quarter of the field of view, with a random other structure of the same size (a ball), and with a scan of the
other dataset. Prints Spearman's rank correlation of confidence and Dice.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from app.service import Service
from iris_core.case import Case
from iris_core.evaluation.metrics import dice
from iris_core.evaluation.protocol import draw_pairs
from nnunet_adapters.raw import open_dataset


def moved(case: Case) -> Case:
    shift = [n // 4 for n in case.labels.shape]
    return replace(case, labels=np.roll(case.labels, shift, (0, 1, 2)))


def ball(case: Case, seed: int) -> Case:
    """Each class as a ball of its volume at a random place."""
    rng = np.random.default_rng(seed)
    labels = np.zeros_like(case.labels)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), -1) * case.spacing_mm
    for c in case.present():
        volume = c.mask(case.labels).sum() * case.spacing_mm.prod()
        radius = max((volume * 3 / 4 / np.pi) ** (1 / 3), case.spacing_mm.max())
        centre = rng.uniform(0.2, 0.8, 3) * np.array(labels.shape) * case.spacing_mm
        labels[np.linalg.norm(index - centre, axis=-1) <= radius] = c.value
    return replace(case, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--pairs", type=int, default=25, help="of each dataset and kind of reference")
    parser.add_argument("--datasets", nargs="+", default=["4", "101"])
    parser.add_argument("--raw-data", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.weights)
    datasets = [open_dataset(i, arguments.raw_data) for i in arguments.datasets]
    everything = []
    print("dataset                    reference           pairs   mean Dice   mean confidence")
    for number, dataset in enumerate(datasets):
        split = service.checkpoint.training["datasets"][dataset.name]
        other = datasets[(number + 1) % len(datasets)]
        foreign = other.case(service.checkpoint.training["datasets"][other.name]["train"][0])
        kinds = {
            "as it is": lambda case, i: case,
            "mask moved": lambda case, i: moved(case),
            "balls": ball,
            "another dataset": lambda case, i, foreign=foreign: foreign,
        }
        pairs = draw_pairs(dataset.patients, split["val"], split["train"], 2, seed=0)
        chosen = np.random.default_rng(0).permutation(len(pairs))[: arguments.pairs]
        of_dataset = []
        for kind, change in kinds.items():
            rows = []
            for i in chosen:
                shown, asked = change(dataset.case(pairs[i][0]), int(i)), dataset.case(pairs[i][1])
                if not shown.present():
                    continue
                embedding = service.encode(shown)
                labels = service.segment(embedding, asked)
                trust = service.confidence([shown], replace(asked, labels=None), labels, embedding)
                for name, value in zip(embedding.names, embedding.values, strict=True):
                    truth = np.isin(asked.labels, [c.value for c in asked.classes if c.name == name])
                    rows.append((trust[name], dice(labels == value, truth) or 0.0))
            of_dataset += rows
            trusts, dices = np.mean(rows, 0)
            print(f"{dataset.name:26s} {kind:18s} {len(rows):6d} {dices:11.3f} {trusts:17.3f}", flush=True)
        rank = spearmanr(*np.transpose(of_dataset)).statistic
        print(f"{dataset.name:26s} Spearman {rank:.3f} over {len(of_dataset)} values", flush=True)
        everything += of_dataset
    print(f"{'all':26s} Spearman {spearmanr(*np.transpose(everything)).statistic:.3f} over {len(everything)} values")


if __name__ == "__main__":
    main()
