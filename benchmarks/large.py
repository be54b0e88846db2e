"""Large and dense scans: seconds a query, what the forecast said before, peak memory. Released weights, one reference.

    python benchmarks/large.py [--cases head-neck head dense CT]

head-neck: two CTs of Dataset107, 7 classes. head: two painted heads of 1.5 mm, 11 classes. dense: two scans of
256×256×20 painted on one body, 30 classes. CT: noise of 512×512×400 voxels of 0.8 mm with a body's air around it and
10 classes. Every figure is of one fresh process. GiB: what the process holds at most while it encodes and while it
segments, the scans, the weights and the libraries among it.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

CASES = ("head-neck", "head", "dense", "CT")


def pair(name: str):
    import numpy as np
    from pairs import read

    from iris_core.case import Case, plain_classes

    rng = np.random.default_rng(0)
    if name in ("head-neck", "head"):
        return read({"head-neck": "head-neck CT", "head": "brain, one contrast"}[name], 0)
    shape = (256, 256, 20) if name == "dense" else (512, 512, 400)
    k = 30 if name == "dense" else 10
    labels = np.zeros(shape, np.int32)
    x, y, z = (slice(n // 4, 3 * n // 4) for n in shape)
    inner = labels[x, y, z]
    step = -(-inner.shape[0] // k)
    for value in range(k):  # slabs, each seen everywhere across
        inner[value * step : (value + 1) * step] = value + 1
    scans = []
    for _ in range(2):
        image = np.full(shape, -1000.0, np.float32)
        body = tuple(slice(n // 8, 7 * n // 8) for n in shape)
        image[body] = 50 * rng.standard_normal(image[body].shape, np.float32)
        image[labels > 0] += 20 * labels[labels > 0]
        affine = np.diag([1.2, 1.2, 5.0, 1.0] if name == "dense" else [0.8, 0.8, 0.8, 1.0])
        scans.append(Case(image, affine, labels, plain_classes(labels), name=name))
    from held_out import Pair

    return Pair(*scans)


def measure(name: str) -> dict[str, float]:
    from app.service import Service
    from iris_core.case import Case

    service, shown = Service("iris-small", "cpu"), pair(name)
    asked = Case(shown.query.image, shown.query.affine, name=name)
    peak_gib()
    started = time.perf_counter()
    task = service.encode(shown.reference)
    encode, encode_gib = time.perf_counter() - started, peak_gib()
    forecast, gib, worst = service.forecast(task, asked)
    held = peak_gib("VmRSS")
    started = time.perf_counter()
    labels = service.segment(task, asked)
    query, query_gib = time.perf_counter() - started, peak_gib()
    return {
        "encode": encode,
        "query": query,
        "forecast": forecast,
        "if lost": worst,
        "forecast GiB": gib,
        "more GiB": query_gib - held,
        "encode GiB": encode_gib,
        "query GiB": query_gib,
        "Dice": shown.dice(labels),
    }


def peak_gib(what: str = "VmHWM") -> float:
    """What the process held at most since this was asked last (or holds now: VmRSS)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    Path("/proc/self/clear_refs").write_text("5")  # Linux begins to count anew
    return int(found[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    for i, name in enumerate(arguments.cases):
        command = [sys.executable, __file__, "--one", name]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if i == 0:
            print("scan     " + "".join(f"{key:>14s}" for key in row))
        print(f"{name:9s}" + "".join(f"{value:14.2f}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
