"""Training for real, at a tiny size: it learns, survives signals and errors, and resumes to the same losses."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ball, write_nifti
from safetensors import safe_open

from iris_core.files import write_json
from nnunet_adapters.raw import prepare_training

ROOT = Path(__file__).parents[4]


def command(raw_data: Path, output: Path, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "app.cli", "train", "--datasets", "901", "902", "--raw-data", str(raw_data),
        "--output", str(output), "--preset", "tiny", "--iterations", "24", "--save-every", "5",
        "--validate-every", "12", "--synthetic", "0.25", "--workers", "1", "--device", "cpu", *extra,
    ]  # fmt: skip


def start(raw_data, output, *extra) -> subprocess.Popen:
    return launch(command(raw_data, output, *extra))


def launch(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # a tiny model, on a busy machine
    return subprocess.Popen(
        arguments,
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
    ("number", "to"),
    [
        (signal.SIGKILL, os.kill),
        (signal.SIGTERM, os.kill),
        (signal.SIGTERM, os.killpg),
        (signal.SIGINT, os.killpg),
    ],
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


def with_two(raw_data: Path, output: Path, *extra: str) -> list[str]:
    python, *rest = command(raw_data, output, *extra)
    return [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *rest]


def learnt(output: Path) -> tuple[dict[int, str], bytes, bytes]:
    """Losses, weights and memory bank: the same bits."""
    return losses(output), *((output / f"{part}.safetensors").read_bytes() for part in ("model", "bank"))


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_either_goes_on_for_the_other(whole_run, raw_data, tmp_path):
    output = tmp_path / "run"
    process = launch(with_two(raw_data, output))
    wait_for_iteration(output, 8, process)
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert 8 <= stored_iteration(output) == max(losses(output)) < 24
    process = start(raw_data, output, "--resume")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert learnt(output) == learnt(whole_run)
    more = command(raw_data, tmp_path / "twice", "--processes", "2")
    process = launch(more)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert learnt(tmp_path / "twice") == learnt(whole_run)
    process = launch([*more, "--resume", "--batch", "3"])
    assert "must be a multiple of the 2 processes" in process.communicate(timeout=120)[1]


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(whole_run, raw_data):
    process = start(raw_data, whole_run)
    assert "holds a run already" in process.communicate()[1]
    assert process.returncode == 2
    process = start(raw_data, whole_run, "--resume", "--batch", "3")
    assert "other settings" in process.communicate()[1]
    assert process.returncode == 2


def wait_until_alone(process: subprocess.Popen) -> None:
    """Fails where a process of the session that ``start`` made is still there ten seconds later."""
    deadline = time.monotonic() + 10
    left = [process.pid]
    while left and time.monotonic() < deadline:
        left = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == process.pid:
                    left.append(int(folder.name))
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    assert not left


def stored_iteration(output: Path) -> int:
    with safe_open(output / "state.safetensors", "pt") as state:
        return int(state.metadata()["iteration"])


def maps_of(folder: Path, **spacings_mm: float) -> Path:
    folder.mkdir()
    for name, spacing in spacings_mm.items():
        labels = ball().astype(np.uint8) + 2 * ball(radius=3.0).astype(np.uint8)
        write_nifti(folder / f"{name}.nii.gz", labels, np.diag([spacing, spacing, spacing, 1.0]))
    return folder


def test_an_error_in_a_worker_ends_the_run_and_is_seen(raw_data, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    paths = {"splits": tmp_path / "splits", "cache": tmp_path / "cache"}
    maps = maps_of(tmp_path / "maps", one=1.0)
    prepare_training(("901", "902"), (maps,), raw_data, 0, **paths)
    (tmp_path / "cache/label_maps_maps/one.npz").write_bytes(b"no archive")
    output = tmp_path / "run"
    arguments = command(raw_data, output, "--label-maps", "maps", "--cache", str(paths["cache"]))
    where = arguments.index("--raw-data")
    del arguments[where : where + 2]  # else the cache would be mended
    process = launch(arguments)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "in read_case" in error
    assert stored_iteration(output) == max(losses(output), default=0)
    wait_until_alone(process)


def test_an_error_in_the_loop_ends_the_run_and_is_seen(raw_data, tmp_path):
    process = start(raw_data, tmp_path / "run", "--learning-rate", "inf")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "FloatingPointError: gradients of 10 iterations in a row" in error
    assert stored_iteration(tmp_path / "run") == max(losses(tmp_path / "run")) > 0
    wait_until_alone(process)


def test_cases_that_make_no_episode_are_drawn_anew_and_named(raw_data, tmp_path):
    maps = maps_of(tmp_path / "maps", flea=0.02, whale=20.0)
    both = tmp_path / "splits" / "label_maps_maps" / "splits_final.json"
    write_json(both, [{"train": ["flea", "whale"], "val": []}])
    extra = "--label-maps", str(maps), "--synthetic", "1", "--splits", str(tmp_path / "splits")
    process = start(raw_data, tmp_path / "run", *extra)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith("refused/")]
    assert {row["name"] for row in rows} <= {
        f"refused/label_maps_maps: {pair}" for pair in ("flea, whale", "whale, flea")
    }
    assert rows
    assert f"{len(rows)} episodes were drawn anew" in error
    assert "label_maps_maps: flea, whale (" in error
    assert max(losses(tmp_path / "run")) == 24
