"""A Ray cluster of two nodes, for real: the same bytes as here, whoever is killed. Needs the extra ``scale``."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import write_nifti

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


def command(tiny_weights, scan, manifest: Path, output: Path, engine: str) -> list[str]:
    shown = "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1], "--no-confidence"
    run = "--manifest", manifest, "--output", output, "--engine", engine
    return [sys.executable, "-m", "app.cli", "segment", *map(str, (*shown, *run))]


def masks(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.nii.gz")}


def workers() -> list[int]:
    """Processes of Ray that hold a model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Actor" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def cluster():
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_a_worker_and_then_the_driver_are_killed(cluster, tiny_weights, scan, tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "queries" / f"q{i:02}.nii.gz" for i in range(24)]
    paths[0].parent.mkdir()
    for path in paths:
        write_nifti(path, rng.normal(size=(24, 20, 22)).astype("f4"))
    manifest = tmp_path / "scans.csv"
    manifest.write_text("\n".join(["query", *map(str, paths)]) + "\n")
    assert subprocess.run(command(tiny_weights, scan, manifest, tmp_path / "here", "local"), cwd=ROOT).returncode == 0
    there = command(tiny_weights, scan, manifest, tmp_path / "there", f"ray:{cluster}")
    driver = subprocess.Popen(there, cwd=ROOT)

    def wait(number: int) -> None:
        deadline = time.monotonic() + 180
        while len(masks(tmp_path / "there")) < number and time.monotonic() < deadline and driver.poll() is None:
            time.sleep(0.05)

    wait(3)
    os.kill(workers()[0], signal.SIGKILL)
    wait(10)
    driver.kill()
    driver.wait()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "there").glob("*.nii.gz")}
    assert 10 <= len(before) < len(paths)
    assert subprocess.run(there, cwd=ROOT, timeout=300).returncode == 0
    assert masks(tmp_path / "there") == masks(tmp_path / "here")
    table = pyarrow.parquet.read_table(tmp_path / "there" / "results.parquet").to_pylist()
    assert sorted(row["output"] for row in table) == [path.name for path in paths]
    assert sum(row["status"] == "kept" for row in table) >= len(before) - 2
    assert threading.active_count() < 20
