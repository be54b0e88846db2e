"""A pool from a raw dataset: encoded once, kept, brought up to date; the same as showing its cases."""

import json
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import torch

from app.cli import main
from app.service import Service
from iris_core.case import InputError
from iris_core.files import WriteError
from iris_core.strategies import STRATEGIES, Options
from iris_core.task_file import load_task
from nnunet_adapters.raw import open_dataset


@pytest.fixture
def dataset(raw_data, tmp_path):
    """A copy of 901 that a test may change."""
    shutil.copytree(raw_data / "Dataset901_Balls", tmp_path / "raw" / "Dataset901_Balls")
    return open_dataset("901", tmp_path / "raw")


@pytest.fixture
def service(tiny_weights) -> Service:
    return Service(str(tiny_weights), "cpu")


def again(dataset):
    return open_dataset("901", dataset.folder.parent)


def times(folder) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("memory_bank", "one_shot", "tuning")])
def test_a_pool_is_the_same_as_its_cases(strategy, dataset, service, tmp_path):
    cases = [dataset.case(name) for name in sorted(dataset.files)]
    from_cases = service.plan(strategy, cases, scheme="percentile")(cases[0])
    for _ in range(2):  # encoded, then read
        known = service.pool(dataset, tmp_path / "pool", "auto")
        from_pool = service.plan(strategy, encoded=known)(cases[0])
        assert from_pool.notes == from_cases.notes
        assert from_pool.embedding.spacing_mm == pytest.approx(from_cases.embedding.spacing_mm)
        assert torch.equal(from_pool.embedding.task.tokens, from_cases.embedding.task.tokens)


def test_only_what_changed_is_encoded_again(dataset, service, tmp_path):
    folder = tmp_path / "pool"
    assert [k.name for k in service.pool(dataset, folder, "auto")] == [f"case{i}" for i in range(6)]
    before = times(folder)
    images, label = dataset.files["case0"]
    for path, name in ((images[0], "case9_0000.nii.gz"), (label, "case9.nii.gz")):  # one more, one less, one newer
        shutil.copy(path, path.with_name(name))
    for path in (*dataset.files["case1"][0], dataset.files["case1"][1]):
        path.unlink()
    os.utime(dataset.files["case2"][1], (1, 1))
    known = service.pool(again(dataset), folder, "auto")
    assert [k.name for k in known] == ["case0", "case2", "case3", "case4", "case5", "case9"]
    after = times(folder)
    assert {name for name in after if before.get(name) != after[name]} == {
        "case2.task.safetensors",
        "case9.task.safetensors",
    }
    assert "case1.task.safetensors" not in after


def test_an_interrupted_pool_goes_on(dataset, service, tmp_path):
    folder = tmp_path / "pool"

    def interrupt(done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.pool(dataset, folder, "auto", interrupt)
    before = times(folder)
    assert len(before) == 3
    assert len(service.pool(dataset, folder, "auto")) == 6
    assert before.items() <= times(folder).items()


def test_a_second_process_waits_and_finds_the_cases_encoded(dataset, service, tmp_path):
    def encode(_) -> int:
        encoded = []
        service.pool(dataset, tmp_path / "pool", "auto", lambda done, of: encoded.append(times(tmp_path / "pool")))
        return len(encoded[0])  # when it began

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(encode, range(2))) == [0, 6]


def test_a_damaged_task_file_is_made_again(dataset, service, tmp_path):
    folder = tmp_path / "pool"
    service.pool(dataset, folder, "auto")
    (folder / "case3.task.safetensors").write_bytes(b"no task")
    assert len(service.pool(dataset, folder, "auto")) == 6


def test_another_grid_begins_anew_and_another_dataset_is_refused(dataset, service, tmp_path, raw_data):
    folder = tmp_path / "pool"
    service.pool(dataset, folder, "auto")
    paper = service.pool(dataset, folder, "paper")
    assert len(paper) == 6 and {k.embedding.spacing_mm for k in paper} == {1.5}
    with pytest.raises(InputError, match="is the pool of Dataset901_Balls"):
        service.pool(open_dataset("902", raw_data), folder, "auto")
    (folder / "pool.sqlite").write_text("[]" * 1000)
    with pytest.raises(InputError, match="not usable as the index of a pool"):
        service.pool(dataset, folder, "auto")


def test_a_damaged_index_is_said_also_where_the_damage_is_no_text(dataset, service, tmp_path):
    folder = tmp_path / "pool"
    service.pool(dataset, folder, "auto")
    index = folder / "pool.sqlite"
    index.write_bytes(index.read_bytes().replace(b"CREATE TABLE cases", b"CREATE TAB\xa0E cases"))
    with pytest.raises(InputError, match="not usable as the index of a pool"):
        service.pool(dataset, folder, "auto")


def test_a_pool_that_cannot_be_written_to_is_not_called_damaged(dataset, service, tmp_path):
    (tmp_path / "pool" / "pool.sqlite").mkdir(parents=True)
    with pytest.raises(WriteError, match="sqlite: cannot be written: unable to open database file"):
        service.pool(dataset, tmp_path / "pool", "auto")


def test_a_case_that_shows_nothing_is_left_out(dataset, service, tmp_path):
    import nibabel

    path = dataset.files["case0"][1]
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    folder = tmp_path / "pool"
    for _ in range(2):
        assert [k.name for k in service.pool(again(dataset), folder, "auto")] == [f"case{i}" for i in range(1, 6)]


def test_segment_takes_a_pool(dataset, tiny_weights, scan, tmp_path, capsys):
    pool = ["--pool", "901", "--raw-data", dataset.folder.parent, "--index", tmp_path / "pool"]
    for strategy in ("auto", "retrieval", "tuning"):
        command = [*pool, "--query", scan[0], "--output", tmp_path / strategy, "--strategy", strategy, "--steps", "2"]
        assert main(["segment", "--weights", str(tiny_weights), *map(str, command)]) == 0, capsys.readouterr().err
        entry = json.loads((tmp_path / strategy / "run.json").read_text())["results"]["scan.nii.gz"]
        assert entry["classes"] == {"1": "ball", "4": "core"}
        assert set(entry["confidence"]) == {"ball", "core"}


def spoil(folder, change: str, *values) -> None:
    with closing(sqlite3.connect(folder / "pool.sqlite")) as rows:
        rows.execute(change, values)
        rows.commit()


NAN, SHORT = np.full(64, np.nan, "f4").tobytes(), b"12"


@pytest.mark.parametrize("value", [NAN, SHORT, "text", 10**15], ids=["nan", "short", "text", "number"])
@pytest.mark.parametrize("column", ["classes SET vector", "cases SET descriptor"])
def test_vectors_that_are_none_are_refused(dataset, service, tmp_path, column, value):
    folder = tmp_path / "pool"
    service.pool(dataset, folder, "auto")
    spoil(folder, f"UPDATE {column} = ?", value)
    pool, query = service.pool(dataset, folder, "auto"), dataset.case("case0")
    strategy = "retrieval" if "vector" in column else "image_retrieval"
    with pytest.raises(InputError, match=r"pool\.sqlite: not usable"):
        service.plan(strategy, encoded=pool)(query)


@pytest.mark.parametrize("spacing_mm", ["nan", "-1", "x", 10**15])
def test_a_spacing_that_is_none_is_refused(dataset, service, tmp_path, spacing_mm):
    service.pool(dataset, tmp_path, "auto")
    spoil(tmp_path, "UPDATE about SET value = ? WHERE key = 'spacing_mm'", spacing_mm)
    if spacing_mm == 10**15:
        assert service.pool(dataset, tmp_path, "auto")
        return
    with pytest.raises(InputError, match=r"pool\.sqlite: not usable"):
        service.pool(dataset, tmp_path, "auto")


def test_a_case_adds_rows_and_only_what_is_chosen_is_read(dataset, service, tmp_path, monkeypatch):
    from iris_core import pool as pools

    read = []
    monkeypatch.setattr(pools, "load_task", lambda path, *more: read.append(path.name) or load_task(path, *more))
    pool = service.pool(dataset, tmp_path / "pool", "auto")
    plan = service.plan("image_retrieval", encoded=pool, options=Options(top_k=2))
    assert read == ["case0.task.safetensors"]
    plan(dataset.case("case3"))
    assert set(read[1:]) <= {f"case{i}.task.safetensors" for i in range(6)} and len(set(read[1:])) == 2
