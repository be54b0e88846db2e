"""A structure in a large field of view, with and without looking for it first: Dice, seconds, and the fallback.

    python benchmarks/locate.py [--weights iris-small] [--pairs 14]

heart: validation hearts, 320 mm of field of view around a ventricle of 50 mm. pasted hippocampus: validation
hippocampi set into a whole brain scan (Dataset106), brightness matched, shown from their own small crops. painted
hippocampus: both hippocampi asked of whole painted heads (held_out.py), shown on whole heads.
"everywhere" never locates; "located" always believes the coarse pass; "auto" is what `iris segment` does: it believes
the coarse pass where that is sure of itself. A fallback was right where "everywhere" is at least as good as "located".
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from held_out import BRAIN, Pair, held_out

from app.service import Service
from iris_core import inference
from iris_core.case import Case
from iris_core.evaluation.protocol import draw_pairs
from iris_core.geometry import oriented
from nnunet_adapters.raw import RawDataset, open_dataset


def pasted(pair: Pair, canvas: Case, seed: int) -> Pair:
    """The query's crop set into the canvas at a random place inside the brain, both at 1 mm."""
    crop, _ = oriented(pair.query, pair.query.image)
    truth, _ = oriented(pair.query, pair.query.labels)
    image, _ = oriented(canvas, canvas.image)
    image, labels = image.copy(), np.zeros(image.shape, np.int32)
    inside = image[image > 0]
    room = [(n // 4, 3 * n // 4 - m) for n, m in zip(image.shape, crop.shape, strict=True)]
    start = np.random.default_rng(seed).integers(*np.transpose(room))
    place = tuple(slice(s, s + m) for s, m in zip(start, crop.shape, strict=True))
    image[place] = (crop - crop.mean()) / crop.std() * inside.std() + inside.mean()
    labels[place] = truth
    return Pair(pair.reference, Case(image, np.eye(4), labels, pair.query.classes, name=pair.query.name))


def pairs_of(dataset: RawDataset, split: dict, count: int) -> Iterator[Pair]:
    for reference, query in draw_pairs(dataset.patients, split["val"], split["train"], 1, seed=0)[:count]:
        yield Pair(dataset.case(reference), dataset.case(query))


def hippocampus_alone(pair: Pair) -> Pair:
    """A pair of painted heads with one class left."""
    value = 1 + list(BRAIN).index("hippocampus")
    kept = [replace(case, labels=np.where(case.labels == value, value, 0)) for case in (pair.reference, pair.query)]
    return Pair(*kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--pairs", type=int, default=14)
    parser.add_argument("--raw-data", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.weights)
    seen = service.checkpoint.training["datasets"]
    hippocampus, heart, lesion = (open_dataset(i, arguments.raw_data) for i in ("4", "101", "106"))
    canvas = lesion.case(seen[lesion.name]["val"][0])
    sets = {
        "heart": pairs_of(heart, seen[heart.name], arguments.pairs),
        "pasted hippocampus": (
            pasted(pair, canvas, i)
            for i, pair in enumerate(pairs_of(hippocampus, seen[hippocampus.name], arguments.pairs))
        ),
        "painted hippocampus": (hippocampus_alone(pair) for pair in held_out("painted brain", arguments.raw_data)),
    }
    print("set                  everywhere      located         auto            fell back   rightly")
    print("                     Dice   s        Dice   s        Dice   s")
    for name, pairs in sets.items():
        rows, fallbacks = [], []
        for pair in pairs:
            embedding = service.encode(pair.reference)
            asked = Case(pair.query.image, pair.query.affine, name=pair.query.name)
            row = []
            for locate, sure in ((False, inference.SURE), (True, 0.0), (True, inference.SURE)):
                before, inference.SURE = inference.SURE, sure
                started = time.perf_counter()
                predicted = inference.segment(service.checkpoint.model, embedding, asked, locate=locate)
                row.append((pair.dice(predicted), time.perf_counter() - started))
                inference.SURE = before
            rows.append(row)
            everywhere, located, auto = (dice for dice, _ in row)
            if auto == everywhere and auto != located:
                fallbacks.append(everywhere >= located)
        cells = "".join(f"{dice:.3f} {seconds:5.2f}    " for dice, seconds in np.mean(rows, 0))
        right = f"{np.mean(fallbacks):.2f}" if fallbacks else "-"
        print(f"{name:20s} {cells} {len(fallbacks):3d} of {len(rows):2d}   {right}", flush=True)


if __name__ == "__main__":
    main()
