"""A pool of many references: seconds and memory to open and to search, and recall against exact search.

    python benchmarks/pool.py [--sizes 1000 100000 1000000] [--references 1000]

Needs pip install '.[scale]'. Vectors are synthetic, of the width of the released weights' (704 numbers of a class, 192
of an image): clusters in 32 directions, as correlated numbers are. Each size is opened by a process of its own; seconds
are of the CPU, so that what else runs does not count. With --references a pool of as many task files of a real scan is
made and opened, without the model's share; with another version's PYTHONPATH that says what it took before.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from app.service import Service
from nnunet_adapters.images import read_reference

SAMPLE = Path(__file__).parents[1] / "app/samples/hippocampus"
NAME, QUERIES, TOP = "structure", 100, 3


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def drawn(rng: np.random.Generator, number: int, width: int, centres: np.ndarray) -> np.ndarray:
    """(number, width): around ``centres``, in a space of 32 directions, as correlated numbers of a model are."""
    spread = np.random.default_rng(7).normal(size=(32, width)) / np.sqrt(32)
    parts = centres[rng.integers(len(centres), size=number)] + 0.7 * rng.normal(size=(number, 32))
    return (parts @ spread + 0.05 * rng.normal(size=(number, width)) + 1).astype(np.float32)


def fill(folder: Path, number: int) -> float:
    """A pool of synthetic vectors, as open_pool would leave it; seconds a thousand cases."""
    from iris_core.pool import Pool

    service = Service("iris-small", "cpu")
    pool, rng, centres = Pool(folder, service.checkpoint), np.random.default_rng(0), centres_of()
    started = time.monotonic()
    with pool.changing() as rows:
        for first in range(0, number, 10_000):
            n = min(10_000, number - first)
            vectors, images = (drawn(rng, n, width, centres) for width in (704, 192))
            keys = range(first + 1, first + n + 1)
            cases = ((k, f"case{k}", "", 1, image.tobytes()) for k, image in zip(keys, images, strict=True))
            rows.executemany("INSERT INTO cases VALUES (?, ?, ?, ?, ?)", cases)
            classes = ((k, NAME, 1, v.astype(np.float16).tobytes()) for k, v in zip(keys, vectors, strict=True))
            rows.executemany("INSERT INTO classes VALUES (?, ?, ?, ?)", classes)
            rows.commit()
    return 1000 * (time.monotonic() - started) / number


def centres_of() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2000, 32))


def search(folder: Path) -> None:
    """Print a row: open, first search, a search, peak memory, for a class and for images; then recall."""
    from iris_core.nearest import EXACT
    from iris_core.pool import IMAGE, Pool

    checkpoint = Service("iris-small", "cpu").checkpoint
    before, started = peak_mib(), time.process_time()
    pool = Pool(folder, checkpoint)
    number = len(pool)
    opened = time.process_time() - started
    for name, width in ((NAME, 704), (IMAGE, 192)):
        rng = np.random.default_rng(2)
        queries = drawn(rng, QUERIES, width, centres_of())
        started = time.process_time()
        found = [pool._search(name, queries[0], TOP)]
        first = time.process_time() - started
        started = time.process_time()
        found += [pool._search(name, query, TOP) for query in queries[1:]]
        each = (time.process_time() - started) / (QUERIES - 1)
        peak = peak_mib() - before
        if number > EXACT:
            exact = truth(pool, name, width, queries)
            shares = [len({k for k, _ in a} & {k for k, _ in b}) / TOP for a, b in zip(found, exact, strict=True)]
            lost = np.mean([b[0][1] - a[0][1] for a, b in zip(found, exact, strict=True)])
            recall = f"{np.mean(shares):.3f}, cosine of the best {lost:.4f} lower"
        else:
            recall = "exact"
        kind = "retrieval" if name else "image_retrieval"
        print(f"{number:9d}  {kind:16}{opened:8.2f}{first:14.2f}{1000 * each:13.1f}{peak:13.0f}  {recall}", flush=True)


def truth(pool, name: str, width: int, queries: np.ndarray) -> list[list[tuple[int, float]]]:
    """Exact search, block by block."""
    table, kind = ("classes", np.float16) if name else ("cases", np.float32)
    column, number = "vector" if name else "descriptor", len(pool)

    def blocks() -> Iterator[tuple[range, np.ndarray]]:
        for first in range(1, number + 1, 20_000):
            found = pool._rows(
                f"SELECT {column} FROM {table} WHERE id >= ? AND id < ? ORDER BY id", first, first + 20_000
            )
            yield (
                range(first, first + len(found)),
                np.frombuffer(b"".join(v for (v,) in found), kind).reshape(-1, width),
            )

    centre = sum(block.sum(0, dtype=np.float64) for _, block in blocks()) / number
    queries = queries - centre
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = [[] for _ in queries]
    for keys, block in blocks():
        block = block - centre
        cosine = queries @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
        for i, row in enumerate(cosine):
            top = np.argpartition(-row, TOP)[:TOP]
            best[i] = sorted([*best[i], *((keys[j], row[j]) for j in top)], key=lambda one: -one[1])[:TOP]
    return best


def open_real(number: int) -> None:
    """Encode one scan under so many names, then open what is there again."""
    from iris_core.pool import open_pool

    service = Service("iris-small", "cpu")
    case = read_reference(SAMPLE / "reference.nii.gz", SAMPLE / "reference_mask.nii.gz")
    module = sys.modules["iris_core.pool"]
    encode = "encode_at" if hasattr(module, "encode_at") else "encode"
    once = getattr(module, encode)(service.checkpoint.model, case, 1.0, "percentile", True)
    image = module.descriptor(service.checkpoint.model, case, "percentile")
    setattr(module, encode, lambda *_: once)  # what the pool itself costs, without the model
    module.descriptor = lambda *_: image
    module.shared_scale = lambda *_: (1.0, "percentile")
    sources = {f"case{i:06}": "1" for i in range(number)}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("made", "opened"):
            before, started = peak_mib(), time.monotonic()
            pool = open_pool(Path(folder), service.checkpoint, "Dataset", sources, lambda _: case, "auto", "percentile")
            seconds = time.monotonic() - started
            print(f"{len(pool)} references {what}: {seconds:.2f} s, {peak_mib() - before:.0f} MiB more", flush=True)
            del pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10**3, 10**5, 10**6])
    parser.add_argument("--references", type=int, default=0)
    parser.add_argument("--search", type=Path, help="a folder that was filled; for this script's own processes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.search:
        search(arguments.search)
        return
    if arguments.references:
        open_real(arguments.references)
    if arguments.sizes:
        print("structures  strategy         open s  first search s  a search ms  MiB more  recall of 3")
    for number in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{number:9d}  filled in {fill(Path(folder), number):.2f} s a thousand", flush=True)
            for _ in range(2):  # the index is made, then read
                subprocess.run([sys.executable, __file__, "--search", folder], check=True)


if __name__ == "__main__":
    main()
