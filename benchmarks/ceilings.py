"""What the grid of the answer lets through: Dice of the true masks, sent to the working grid and back.

    python benchmarks/ceilings.py [--sets hippocampus …]

The references of pairs.json, at the working spacing that is chosen for each, one sample a voxel, as the model answers
since 0.5.0; and, as before, one for two voxels along each axis. Mean over classes and scans, and the worst class.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from pairs import listed, read

from iris_core.case import Case
from iris_core.evaluation.metrics import dice
from iris_core.geometry import Scores, WorkingGrid, choose_spacing, labels_back, oriented
from iris_core.model.iris import PRESETS


def through(case: Case, stride: int) -> dict[str, float]:
    """Dice of each class that a case shows."""
    labels, spacing_mm = oriented(case, case.labels)
    classes = case.present()
    masks = [c.mask(labels) for c in classes]
    grid = WorkingGrid(labels.shape, spacing_mm, choose_spacing(masks, spacing_mm, PRESETS["small"].window))
    there = torch.stack([grid.to_working(torch.from_numpy(mask)) for mask in masks])[None]
    if stride > 1:
        ends = [-n % stride for n in there.shape[2:]]
        coarse = F.avg_pool3d(F.pad(there, (0, ends[2], 0, ends[1], 0, ends[0])), stride)
        x, y, z = there.shape[2:]
        there = F.interpolate(coarse, scale_factor=stride, mode="trilinear")[:, :, :x, :y, :z]
    back = labels_back(Scores(grid, (0, 0, 0), there[0] - 0.5), tuple(c.value for c in classes))
    return {c.name: dice(back == c.value, mask) for c, mask in zip(classes, masks, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=listed(), default=list(listed()))
    arguments = parser.parse_args()
    print(f"{'set':24s} scans      mean  worst class      two voxels: mean  worst class")
    for name in arguments.sets:
        scans = {pair[0]: i for i, pair in enumerate(listed()[name])}
        found: dict[int, dict[str, list[float]]] = {1: {}, 2: {}}
        for number in scans.values():
            reference = read(name, number).reference
            for stride, by_class in found.items():
                for called, score in through(reference, stride).items():
                    by_class.setdefault(called, []).append(score)
        means = {stride: [np.mean(scores) for scores in by_class.values()] for stride, by_class in found.items()}
        one, two = (f"{np.mean(m):10.3f} {np.min(m):12.3f}" for m in means.values())
        print(f"{name:24s} {len(scans):5d}{one}{' ' * 6}{two}", flush=True)


if __name__ == "__main__":
    main()
