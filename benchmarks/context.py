"""Does the model look at its reference? Dice on validation hippocampi with right, other and unrelated references.

python benchmarks/context.py [--weights iris-small] [--pairs 20] [--raw-data FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np

from app.service import Service
from iris_core.case import Case, plain_classes
from iris_core.evaluation.metrics import dice
from iris_core.evaluation.protocol import draw_pairs
from nnunet_adapters.raw import open_dataset


def relabelled(case: Case, labels: np.ndarray) -> Case:
    return Case(case.image, case.affine, labels, plain_classes(labels), name=case.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--raw-data", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.weights)
    hippocampus, heart = (open_dataset(d, arguments.raw_data) for d in ("4", "101"))
    split = service.checkpoint.training["datasets"][hippocampus.name]
    unrelated = heart.case(service.checkpoint.training["datasets"][heart.name]["val"][0])
    pairs = draw_pairs(hippocampus.patients, split["val"], split["train"], 1, seed=0)[: arguments.pairs]
    rows = {
        "anterior shown": lambda c: relabelled(c, np.where(c.labels == 1, 1, 0)),
        "posterior shown": lambda c: relabelled(c, np.where(c.labels == 2, 1, 0)),
        "anterior's mask moved by half the scan": lambda c: relabelled(
            c, np.roll(c.labels == 1, [n // 2 for n in c.labels.shape], (0, 1, 2)).astype(np.int32)
        ),
        "a heart shown": lambda c: unrelated,
    }
    print(f"{len(pairs)} pairs; Dice with the query's  anterior  posterior")
    for name, show in rows.items():
        scores = []
        for reference, query in pairs:
            asked = hippocampus.case(query)
            task = service.encode(show(hippocampus.case(reference)))
            predicted = service.segment(task, Case(asked.image, asked.affine)) != 0
            scores.append([dice(predicted, asked.labels == value) for value in (1, 2)])
        anterior, posterior = np.mean(scores, 0)
        print(f"{name:40s} {anterior:8.3f} {posterior:10.3f}")


if __name__ == "__main__":
    main()
