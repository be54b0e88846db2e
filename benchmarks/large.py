"""Large and dense scans: seconds a query, what the forecast said before, peak memory. Released weights, one reference.

    python benchmarks/large.py [--cases head-neck head dense CT]

head-neck: two CTs of Dataset107, 7 classes. head: two painted heads of 1.5 mm, 11 classes. dense: two scans of
256×256×20 painted on one body, 30 classes. CT: noise of 512×512×400 voxels of 0.8 mm with a body's air around it and
10 classes, all unlike one another. Every figure is of one fresh process; peak: beyond what is loaded and the scans.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

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
        image[body] = rng.normal(0, 50, image[body].shape)
        image += 20 * labels
        affine = np.diag([1.2, 1.2, 5.0, 1.0] if name == "dense" else [0.8, 0.8, 0.8, 1.0])
        scans.append(Case(image, affine, labels, plain_classes(labels), name=name))
    from held_out import Pair

    return Pair(*scans)


def measure(name: str) -> dict[str, float]:
    from app.service import Service
    from iris_core.case import Case

    service, shown = Service("iris-small", "cpu"), pair(name)
    asked = Case(shown.query.image, shown.query.affine, name=name)
    started = time.perf_counter()
    task = service.encode(shown.reference)
    encoded = time.perf_counter()
    forecast, gib, worst = service.forecast(task, asked)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    labels = service.segment(task, asked)
    seconds = time.perf_counter() - begun
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 2**20
    return {
        "encode": encoded - started,
        "query": seconds,
        "forecast": forecast,
        "worst": worst,
        "forecast_gib": gib,
        "peak": peak,
        "all": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "dice": shown.dice(labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    print("scan       encode s   query s   forecast s   if lost s   forecast GiB   more GiB   process GiB   Dice")
    for name in arguments.cases:
        command = [sys.executable, __file__, "--one", name]
        r = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"{name:10s} {r['encode']:8.2f} {r['query']:9.2f} {r['forecast']:12.2f} {r['worst']:11.2f}"
            f" {r['forecast_gib']:14.2f} {r['peak']:10.2f} {r['all']:13.2f} {r['dice']:6.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
