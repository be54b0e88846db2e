"""Seconds and peak memory of one reference and ten 128³ queries, K = 1 and K = 15, per preset; random weights.

    python benchmarks/one_shot.py [--presets small base] [--queries 10] [--beside 3]

Every figure is of one fresh process. --beside: measured again while that many other processes keep the cores busy.
Paper (A100, K = 15): 2.0 s and 7.4 GB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import app  # noqa: F401  how threads wait, as in `iris`


def job(preset: str, k: int, queries: int):  # -> Context, list[Case]
    """A model of random weights with one reference of k slabs, on the paper's grid; and the queries, 128³ at 1.5 mm."""
    import numpy as np
    import torch

    from iris_core.case import Case, plain_classes
    from iris_core.model.iris import PRESETS, Iris
    from iris_core.strategies import Context

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Iris(PRESETS[preset]).to(device, memory_format=torch.channels_last_3d).eval()
    rng = np.random.default_rng(0)
    labels = np.zeros((128, 128, 128), np.int32)
    for value in range(1, k + 1):  # k slabs: present everywhere, of the same size
        labels[8:120, 8:120, 8 + (value - 1) * 112 // k : 8 + value * 112 // k] = value
    scans = [
        Case(rng.normal(size=labels.shape).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1])) for _ in range(queries)
    ]
    reference = Case(scans[0].image, scans[0].affine, labels, plain_classes(labels))
    return Context(model, [reference], grid="paper"), scans


def measure(preset: str, k: int, queries: int) -> dict[str, float]:
    import torch

    from iris_core.inference import segment
    from iris_core.strategies.one_shot import one_shot

    context, scans = job(preset, k, queries)
    model = context.model
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    segment(model, one_shot(context)(scans[0]).embedding, scans[0])  # warm-up
    started, cpu = time.perf_counter(), time.process_time()
    embedding = one_shot(context)(scans[0]).embedding
    encoded = time.perf_counter()
    for scan in scans:
        segment(model, embedding, scan)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if torch.cuda.is_available()
        else (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 2**20
    )
    seconds = {"encode": encoded - started, "query": (ended - encoded) / queries, "total": ended - started}
    return {**seconds, "cpu": cpu, "gib": peak}


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Other work on the machine: processes that each want a core, and end with this one even if it is killed."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n    sum(range(10**6))"
    others = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small"])
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--beside", type=int, default=0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), arguments.queries)))
        return
    print("preset   K   encode s   s/query   total s   peak GiB above the loaded model")
    for preset in arguments.presets:
        rows = {}
        for k in (1, 15):
            command = [sys.executable, __file__, "--queries", str(arguments.queries), "--one", preset, str(k)]
            for others in (0, arguments.beside) if arguments.beside else (0,):
                with busy_loops(others):
                    r = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rows[k, others] = r
                note = f"   beside {others} busy loops" if others else ""
                print(
                    f"{preset:6} {k:3} {r['encode']:10.2f} {r['query']:9.2f} {r['total']:9.2f} {r['gib']:10.2f}{note}"
                )
        print(f"{preset:6} K = 15 / K = 1: {rows[15, 0]['total'] / rows[1, 0]['total']:.2f} × the time")
        if arguments.beside:
            slower = rows[1, arguments.beside]["query"] / rows[1, 0]["query"]
            print(f"{preset:6} K = 1: a query beside {arguments.beside} busy loops takes {slower:.1f} × the time alone")


if __name__ == "__main__":
    main()
