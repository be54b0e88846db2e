"""A folder of many queries: memory over the run, and what a run that is killed half-way leaves.

    python benchmarks/folder.py [--queries 200] [--edge 96] [--preset small]

Queries of EDGE³ at 1.5 mm, random weights. Prints the resident memory of `iris segment` after every tenth of the
queries, kills it with SIGKILL half-way, goes on with --continue, and counts what is there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch

from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def run(command: list[str], masks: Path, every: int, upto: int) -> None:
    """Print masks written and MiB, a row each time ``every`` more are there; the process is killed at ``upto``."""
    seen: dict[int, float] = {}
    first = len(list(masks.glob("q*.nii.gz")))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        done = len(list(masks.glob("q*.nii.gz")))
        if done > first and done // every > first // every and done // every not in seen:
            seen[done // every] = resident_mib(process.pid)
            print(f"{done:6d} {seen[done // every]:13.0f}", flush=True)
        if done >= upto:
            process.kill()
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--edge", type=int, default=96)
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        checkpoint.save(folder / "weights", Iris(PRESETS[arguments.preset]), MemoryBank(), {})
        rng, shape, affine = np.random.default_rng(0), (arguments.edge,) * 3, np.diag([1.5, 1.5, 1.5, 1])
        scan = nibabel.Nifti1Image(rng.integers(0, 1000, shape).astype(np.int16), affine)
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(n // 3, 2 * n // 3) for n in shape)] = 1
        (folder / "queries").mkdir()
        nibabel.save(scan, folder / "reference.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "mask.nii.gz")
        for i in range(arguments.queries):
            (folder / "queries" / f"q{i:04}.nii.gz").write_bytes((folder / "reference.nii.gz").read_bytes())
        command = [sys.executable, "-m", "app.cli", "segment", "--weights", folder / "weights", "--no-confidence"]
        command += ["--reference", folder / "reference.nii.gz", "--mask", folder / "mask.nii.gz", "--continue"]
        command = [str(c) for c in [*command, "--query", folder / "queries", "--output", folder / "masks"]]
        every, half = max(1, arguments.queries // 10), arguments.queries // 2
        print(" masks  resident MiB")
        run(command, folder / "masks", every, half)
        before = {p.name: p.stat().st_mtime_ns for p in (folder / "masks").glob("q*.nii.gz")}
        left = [p.name for p in (folder / "masks").iterdir() if p.name.startswith(".")]
        print(f"killed at {len(before)} masks; half-written: {len(left)} hidden")
        run(command, folder / "masks", every, 10**9)
        after = {p.name: p.stat().st_mtime_ns for p in (folder / "masks").glob("q*.nii.gz")}
        entries = json.loads((folder / "masks" / "run.json").read_text("utf-8"))["results"]
        again = sum(after[name] != time_ns for name, time_ns in before.items())
        whole = sum(nibabel.load(folder / "masks" / name).get_fdata().shape == shape for name in after)
        print(f"at the end {len(after)} masks, {whole} whole, {len(entries)} in run.json, {again} written twice")


if __name__ == "__main__":
    main()
