"""Training on two processes against one: the same losses; a rank is killed, one process goes on.

    python benchmarks/processes.py --raw-data FOLDER [--iterations 50] [--batch 2] [--preset small]

Dataset004_Hippocampus on the CPU, one thread a process. Prints the largest difference of a loss between the runs,
whether weights and memory bank are the same bytes, and seconds.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def losses(output: Path) -> dict[int, float]:
    if not (output / "log.csv").is_file():
        return {}
    with open(output / "log.csv", newline="") as file:
        return {int(row["iteration"]): float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-data", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--preset", default="small", choices=["small", "base", "tiny"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def start(name: str, processes: int, *more: str) -> subprocess.Popen:
            command = [sys.executable, "-m"]
            if processes > 1:
                command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
            command += ["app.cli", "train", "--datasets", "4", "--raw-data", str(arguments.raw_data), "--device", "cpu"]
            command += ["--cache", str(folder / "cache"), "--splits", str(folder / "splits"), *more]
            command += ["--output", str(folder / name), "--preset", arguments.preset, "--batch", str(arguments.batch)]
            command += ["--iterations", str(arguments.iterations), "--validate-every", "1000000", "--save-every", "10"]
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def compare(name: str, what: str, started: float) -> None:
            one, other = losses(folder / "one"), losses(folder / name)
            most = max(abs(one[i] - other[i]) for i in one)
            files = [
                (folder / run / f"{part}.safetensors").read_bytes()
                for part in ("model", "bank")
                for run in ("one", name)
            ]
            same = [files[0] == files[1], files[2] == files[3]]
            seconds = time.monotonic() - started
            print(
                f"{what}: {len(other)} losses, largest difference {most:.3g}; weights and bank the same: {same},"
                f" {seconds:.0f} s",
                flush=True,
            )

        started = time.monotonic()
        start("one", 1).wait()
        compare("one", "one process", started)
        started = time.monotonic()
        start("two", 2).wait()
        compare("two", "two processes", started)
        started, run = time.monotonic(), start("killed", 2)
        while len(losses(folder / "killed")) < arguments.iterations // 2 and run.poll() is None:
            time.sleep(0.1)
        ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        print(f"rank 1 killed: exit code {run.wait()} after {len(losses(folder / 'killed'))} iterations", flush=True)
        start("killed", 1, "--resume").wait()
        compare("killed", "resumed with one process", started)


if __name__ == "__main__":
    main()
