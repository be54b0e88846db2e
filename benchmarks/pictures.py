"""The best, the median and the worst case of each set as one picture: outlines of truth and result.

    python benchmarks/pictures.py [--weights iris-small] [--output docs/cases.png]

One row a set (validation patients), three columns. Each tile is the slice with most of the structures; green is the
truth, red the result, yellow where both run together. The Dice of each tile is printed.
"""

import argparse
from pathlib import Path

import numpy as np
from held_out import Pair
from PIL import Image
from skimage.segmentation import find_boundaries

from app.service import Service
from iris_core.case import Case
from iris_core.evaluation.protocol import draw_pairs
from iris_core.geometry import oriented
from nnunet_adapters.raw import open_dataset

TILE = 320


def tile(pair: Pair, predicted: np.ndarray) -> Image.Image:
    image, spacing_mm = oriented(pair.query, pair.query.image)
    truth, _ = oriented(pair.query, pair.query.labels)
    result, _ = oriented(pair.query, predicted)
    axis = int(np.argmax(spacing_mm))  # look along the coarsest axis
    axis = 2 if np.ptp(spacing_mm) < 0.1 else axis
    shown = (truth > 0) | (result > 0)
    at = int(shown.sum(tuple(a for a in range(3) if a != axis)).argmax())
    plane = [np.flip(np.take(v, at, axis).T, 0) for v in (image, truth, result)]
    ys, xs = np.nonzero((plane[1] > 0) | (plane[2] > 0))
    half = max(np.ptp(xs), np.ptp(ys)) * 0.75 + 8
    box = [max(0, int(c - half)) for c in ((ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2)]
    cut = [p[box[0] : box[0] + int(2 * half), box[1] : box[1] + int(2 * half)] for p in plane]
    low, high = np.percentile(cut[0], (1, 99))
    grey = np.clip((cut[0] - low) / max(high - low, 1e-6), 0, 1)
    size = (TILE, TILE * cut[0].shape[0] // cut[0].shape[1])
    large = [np.array(Image.fromarray(c.astype(np.int32)).resize(size, Image.NEAREST)) for c in cut[1:]]
    colour = np.array(Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.BICUBIC).convert("RGB"))
    lines = [find_boundaries(v, mode="inner") for v in large]
    colour[lines[0] | lines[1]] = 0
    colour[lines[0], 1] = 255
    colour[lines[1], 0] = 255
    canvas = Image.new("RGB", (TILE, TILE))
    picture = Image.fromarray(colour)
    picture.thumbnail((TILE, TILE))
    canvas.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--output", type=Path, default=Path("docs/cases.png"))
    parser.add_argument("--datasets", nargs="+", default=["4", "101"])
    parser.add_argument("--raw-data", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.weights)
    sheet = Image.new("RGB", (3 * TILE, len(arguments.datasets) * TILE))
    for row, identifier in enumerate(arguments.datasets):
        dataset = open_dataset(identifier, arguments.raw_data)
        split = service.checkpoint.training["datasets"][dataset.name]
        found = []
        for reference, query in draw_pairs(dataset.patients, split["val"], split["train"], 1, seed=0):
            pair = Pair(dataset.case(reference), dataset.case(query))
            asked = Case(pair.query.image, pair.query.affine, name=query)
            predicted = service.segment(service.encode(pair.reference), asked)
            found.append((pair.dice(predicted), query, pair, predicted))
        found.sort(key=lambda f: f[0])
        for column, (word, i) in enumerate((("best", -1), ("median", len(found) // 2), ("worst", 0))):
            dice, query, pair, predicted = found[i]
            print(f"{dataset.name} {word}: {query} {dice:.3f}")
            sheet.paste(tile(pair, predicted), (column * TILE, row * TILE))
    sheet.save(arguments.output)


if __name__ == "__main__":
    main()
