"""Training for real, at a tiny size: it learns, survives SIGTERM and SIGKILL, and resumes to the same losses."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def command(raw_data: Path, output: Path, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "app.cli", "train", "--datasets", "901", "902", "--raw-data", str(raw_data),
        "--output", str(output), "--preset", "tiny", "--iterations", "24", "--save-every", "5",
        "--validate-every", "12", "--synthetic", "0.25", "--workers", "1", "--device", "cpu", *extra,
    ]  # fmt: skip


def start(raw_data, output, *extra) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # a tiny model, on a busy machine
    return subprocess.Popen(
        command(raw_data, output, *extra),
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def losses(output: Path) -> dict[int, str]:
    with open(output / "log.csv", newline="") as file:
        return {int(row["iteration"]): row["value"] for row in csv.DictReader(file) if row["name"] == "loss"}


def wait_for_iteration(output: Path, iteration: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (output / "log.csv").exists() and max(losses(output), default=0) >= iteration:
            return
        time.sleep(0.02)
    raise AssertionError(f"iteration {iteration} was not reached: {process.stderr.read()}")


@pytest.fixture(scope="module")
def whole_run(raw_data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    process = start(raw_data, output)
    _, error = process.communicate()
    assert process.returncode == 0, error
    return output


def test_a_run_leaves_weights_bank_and_record(whole_run):
    import json

    from iris_core import checkpoint

    loaded = checkpoint.load(whole_run)
    balls, regions = "Dataset901_Balls", "Dataset902_Regions"
    assert set(loaded.bank.entries) == {f"{balls}/ball", f"{balls}/core", f"{regions}/whole", f"{regions}/core"}
    record = json.loads((whole_run / "training.json").read_text("utf-8"))
    split = record["datasets"]["Dataset901_Balls"]
    assert len(split["train"]) == 4
    assert len(split["val"]) == 2
    assert len({int(c[-1]) // 2 for c in split["train"]} & {int(c[-1]) // 2 for c in split["val"]}) == 0
    assert list((whole_run / "tensorboard").iterdir())
    values = [float(v) for v in losses(whole_run).values()]
    assert sum(values[-6:]) < sum(values[:6])
    assert not list(whole_run.rglob(".*.safetensors"))


@pytest.mark.parametrize(
    ("number", "to"), [(signal.SIGKILL, os.kill), (signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)]
)
def test_an_interrupted_run_resumes_to_the_same_losses(number, to, whole_run, raw_data, tmp_path):
    output = tmp_path / "run"
    process = start(raw_data, output)
    wait_for_iteration(output, 8, process)
    to(process.pid, number)
    _, error = process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "--resume" in error
    assert len(losses(output)) < 24
    process = start(raw_data, output, "--resume")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert losses(output) == losses(whole_run)
    assert (output / "model.safetensors").read_bytes() == (whole_run / "model.safetensors").read_bytes()


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(whole_run, raw_data):
    process = start(raw_data, whole_run)
    assert "holds a run already" in process.communicate()[1]
    assert process.returncode == 2
    process = start(raw_data, whole_run, "--resume", "--batch", "3")
    assert "other settings" in process.communicate()[1]
    assert process.returncode == 2
