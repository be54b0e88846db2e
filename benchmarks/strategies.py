"""What encoding once saves: seconds of each strategy against encoding again for every query and class.

    python benchmarks/strategies.py [--queries 10] [--classes 1 5 15]

One reference (retrieval and ensemble: POOL), queries of 96³ at 1.5 mm, random weights of the preset `small`, all in one
run. "prepare" is paid once, "query" for each query, "again" encodes the reference anew for every query and each class
on its own, as a model without a portable task has to.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from iris_core.case import Case, plain_classes
from iris_core.inference import segment
from iris_core.model.iris import PRESETS, Iris
from iris_core.strategies import STRATEGIES, Context, Options

EDGE = 96
POOL = 5


def scan(seed: int, k: int | None = None) -> Case:
    rng = np.random.default_rng(seed)
    image, affine = rng.normal(size=(EDGE, EDGE, EDGE)).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1])
    if k is None:
        return Case(image, affine, name=f"scan {seed}")
    labels = np.zeros(image.shape, np.int32)
    for value in range(1, k + 1):  # k slabs, of the same size
        labels[8:-8, 8:-8, 8 + (value - 1) * (EDGE - 16) // k : 8 + value * (EDGE - 16) // k] = value
    return Case(image, affine, labels, plain_classes(labels), name=f"scan {seed}")


def again(model: Iris, reference: Case, queries: list[Case]) -> float:
    started = time.perf_counter()
    for query in queries:
        for c in reference.classes:
            one = replace(reference, labels=np.where(reference.labels == c.value, c.value, 0), classes=(c,))
            plan = STRATEGIES["one_shot"](Context(model, [one], grid="paper"))
            segment(model, plan(query).embedding, query)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 5, 15])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Iris(PRESETS["small"]).to(device, memory_format=torch.channels_last_3d).eval()
    queries = [scan(100 + i) for i in range(arguments.queries)]
    print("  K   strategy           references   prepare s   s/query   all s   again / all")
    for k in arguments.classes:
        references = [scan(i, k) for i in range(POOL)]
        repeated = again(model, references[0], queries[:2]) / 2 * len(queries)  # two queries tell what ten take
        for strategy in ("one_shot", "ensemble", "retrieval", "image_retrieval", "tuning"):
            shown = references if strategy in ("ensemble", "retrieval", "image_retrieval") else references[:1]
            started = time.perf_counter()
            plan = STRATEGIES[strategy](Context(model, shown, grid="paper", options=Options(steps=10)))
            prepared = time.perf_counter()
            for query in queries:
                segment(model, plan(query).embedding, query)
            ended = time.perf_counter()
            prepare, each, total = prepared - started, (ended - prepared) / len(queries), ended - started
            print(
                f"{k:3d}   {strategy:16s} {len(shown):12d} {prepare:11.2f} {each:9.2f} {total:7.1f}"
                f" {repeated / total:10.1f} ×",
                flush=True,
            )


if __name__ == "__main__":
    main()
