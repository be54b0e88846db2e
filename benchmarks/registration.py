"""Iris beside what people have: the reference's mask carried over by ANTs SyN. Dice and seconds, on the same pairs.

    pip install '.[bench]'
    python benchmarks/registration.py --sets hippocampus heart … [--weights iris-small]
    python benchmarks/registration.py --validation 4 101 --draws 5

--sets takes the pairs of held_out.py, --validation the pairs of `iris evaluate --split val --seed 0`. SyN is
antspyx's own default (affine, then SyN on mutual information) at full resolution; where it gives up with an error its
mask counts as empty, and "failed" says how often. "carried" is Iris without anything learned: the mask where its own
registration puts it. Seconds are a pair's: for Iris encoding and segmenting, for SyN registering and carrying over.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ants
import numpy as np
from held_out import SETS, Pair, held_out

from app.service import Service
from iris_core.case import Case
from iris_core.evaluation.protocol import draw_pairs
from iris_core.geometry import oriented
from iris_core.inference import segment
from iris_core.model.iris import Iris
from nnunet_adapters.raw import evaluation_split, open_dataset


class Carried(Iris):
    """The same model, answering with the reference's mask where registration puts it."""

    def __init__(self, model: Iris) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.eval()

    decoded = Iris.registered


def syn(reference: Case, query: Case) -> np.ndarray | None:
    """Labels on the query's RAS+ grid; None where SyN gives up."""

    def volume(case: Case, array: np.ndarray) -> ants.ANTsImage:
        array, spacing_mm = oriented(case, array)
        return ants.from_numpy(np.ascontiguousarray(array, np.float32), spacing=spacing_mm)

    # from 0 up: SyN begins with the centres of mass on one another
    fixed, moving = (volume(case, case.image - case.image.min()) for case in (query, reference))
    mask = volume(reference, reference.labels)
    try:
        found = ants.registration(fixed, moving, type_of_transform="SyN")
    except RuntimeError as error:
        print(f"{query.name}: {error}", file=sys.stderr)
        return None
    moved = ants.apply_transforms(fixed, mask, found["fwdtransforms"], interpolator="nearestNeighbor")
    for path in set(found["fwdtransforms"] + found["invtransforms"]):
        Path(path).unlink(missing_ok=True)
    return moved.numpy().astype(np.int32)


def validation(identifier: str, draws: int, service: Service, raw_data: Path | None) -> Iterator[Pair]:
    dataset = open_dataset(identifier, raw_data)
    train, val = evaluation_split(dataset, service.checkpoint.training.get("datasets", {}).get(dataset.name), None)
    for reference, query in draw_pairs(dataset.patients, val, train, draws, 0):
        yield Pair(dataset.case(reference), dataset.case(query))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=[])
    parser.add_argument("--validation", nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--raw-data", type=Path)
    parser.add_argument("--output", type=Path, help="a CSV with every pair")
    arguments = parser.parse_args()
    service, rows = Service(arguments.weights), []
    carried = Carried(service.checkpoint.model)
    work = {name: held_out(name, arguments.raw_data) for name in arguments.sets}
    work |= {i: validation(i, arguments.draws, service, arguments.raw_data) for i in arguments.validation}
    print("set            pairs   Iris Dice   carried   SyN Dice  failed   Iris s   SyN s   SyN s ÷ Iris s", flush=True)
    for name, pairs in work.items():
        of_set = []
        for pair in pairs:
            asked = Case(pair.query.image, pair.query.affine, name=pair.query.name)
            started = time.perf_counter()
            task = service.encode(pair.reference)
            ours = service.segment(task, asked)
            between = time.perf_counter()
            theirs = syn(pair.reference, asked)
            ended = time.perf_counter()
            truth, _ = oriented(pair.query, pair.query.labels)
            carried_over = np.zeros_like(truth) if theirs is None else theirs
            registered = Pair(pair.reference, Case(truth.astype(np.float32), np.eye(4), truth)).dice(carried_over)
            alone = pair.dice(segment(carried, task, asked))
            of_set.append((pair.dice(ours), alone, registered, theirs is None, between - started, ended - between))
            rows.append((name, pair.reference.name, pair.query.name, *of_set[-1]))
        ours, alone, theirs, failed, fast, slow = np.mean(of_set, 0)
        print(
            f"{name:13s} {len(of_set):6d} {ours:11.3f} {alone:9.3f} {theirs:10.3f} {failed * len(of_set):7.0f}"
            f" {fast:8.2f} {slow:7.2f} {slow / fast:10.1f}",
            flush=True,
        )
    if arguments.output:
        with open(arguments.output, "w", newline="") as file:
            columns = "set", "reference", "query", "iris", "carried", "syn", "syn_failed", "iris_s", "syn_s"
            csv.writer(file).writerows([columns, *rows])


if __name__ == "__main__":
    main()
