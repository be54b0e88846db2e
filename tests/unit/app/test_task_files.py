"""Task files: made here, used elsewhere without the reference, the same masks to the bit; bad ones are refused."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from conftest import ball, write_nifti
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from app.cli import main
from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris


@pytest.fixture
def iris(tiny_weights, capsys):
    def run(command, *arguments) -> tuple[int, str]:
        code = main([command, "--weights", str(tiny_weights), *map(str, arguments)])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def task(iris, scan, tmp_path):
    path = tmp_path / "ball.task.safetensors"
    assert iris("encode", "--reference", scan[0], "--mask", scan[1], "--names", "1=ball", "--output", path)[0] == 0
    return path


def masks(folder) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(nibabel.load(p).dataobj) for p in folder.glob("*.nii.gz")}


def classes(folder, name: str) -> dict[str, str]:
    return json.loads((folder / "run.json").read_text())["results"][name]["classes"]


def test_a_task_file_gives_the_same_masks_to_the_bit(iris, scan, task, tmp_path):
    other = write_nifti(tmp_path / "other.nii.gz", np.random.default_rng(1).normal(size=(60, 30, 44)).astype("f4"))
    assert (
        iris("segment", "--reference", scan[0], "--mask", scan[1], "--query", other, "--output", tmp_path / "a")[0] == 0
    )
    elsewhere = tmp_path / "elsewhere" / "moved.task.safetensors"
    elsewhere.parent.mkdir()
    shutil.move(task, elsewhere)
    for path in scan:
        path.unlink()
    assert iris("segment", "--task", elsewhere, "--query", other, "--output", tmp_path / "b")[0] == 0
    first, second = masks(tmp_path / "a"), masks(tmp_path / "b")
    assert first.keys() == second.keys() == {"other.nii.gz"}
    assert (first["other.nii.gz"] == second["other.nii.gz"]).all()
    assert classes(tmp_path / "b", "other.nii.gz") == {"1": "ball"}


def test_a_task_file_says_where_it_comes_from_and_names_no_folders(task, scan):
    with safe_open(task, "pt") as stored:
        about = json.loads(stored.metadata()["iris_task"])
    assert about["made_from"] == [scan[0].name, scan[1].name]
    assert str(scan[0].parent) not in json.dumps(about)
    assert about["made"].endswith("+00:00")


def test_several_task_files_are_averaged_or_joined(iris, task, scan, tmp_path):
    two = write_nifti(tmp_path / "two.nii.gz", ball(radius=4).astype(np.uint8) * 2)
    second = tmp_path / "core.task.safetensors"
    assert iris("encode", "--reference", scan[0], "--mask", two, "--names", "2=core", "--output", second)[0] == 0
    both = ["--task", task, "--task", second]
    assert iris("segment", *both, "--query", scan[0], "--output", tmp_path / "joined")[0] == 0
    assert classes(tmp_path / "joined", "scan.nii.gz") == {"1": "ball", "2": "core"}
    assert iris("encode", *both, "--output", tmp_path / "both.task.safetensors")[0] == 0
    one = ["--task", tmp_path / "both.task.safetensors"]
    assert iris("segment", *one, "--query", scan[0], "--output", tmp_path / "from_joined")[0] == 0
    first, second = masks(tmp_path / "joined"), masks(tmp_path / "from_joined")
    assert np.mean(first["scan.nii.gz"] == second["scan.nii.gz"]) > 0.99
    clash = ["encode", "--reference", scan[0], "--mask", scan[1], "--names", "1=liver", "--output"]
    assert iris(*clash, tmp_path / "liver.task.safetensors")[0] == 0
    code, error = iris(
        "segment", "--task", task, "--task", tmp_path / "liver.task.safetensors", "--query", scan[0],
        "--output", tmp_path / "x",
    )  # fmt: skip
    assert code == 2
    assert "a label value of its own" in error


def test_only_some_of_the_structures_that_a_mask_shows(iris, scan, tmp_path):
    mask = write_nifti(tmp_path / "two.nii.gz", (ball(radius=6) + ball(radius=3).astype(np.uint8)).astype(np.uint8))
    shown = ["encode", "--reference", scan[0], "--mask", mask, "--names", "1=shell", "2=core"]
    assert iris(*shown, "--only", "core", "--output", tmp_path / "core.task.safetensors")[0] == 0
    with safe_open(tmp_path / "core.task.safetensors", "pt") as stored:
        assert json.loads(stored.metadata()["iris_task"])["names"] == ["core"]
    code, error = iris(*shown, "--only", "heart", "core", "--output", tmp_path / "x.task.safetensors")
    assert code == 2 and "['heart']" in error and "['core', 'shell']" in error
    task = ["--task", tmp_path / "core.task.safetensors", "--only", "core", "--output", tmp_path / "y.task.safetensors"]
    assert iris("encode", *task)[0] == 2
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["core.task.safetensors"]


def test_another_models_task_is_refused(task, scan, tmp_path, capsys):
    torch.manual_seed(5)
    checkpoint.save(tmp_path / "other", Iris(PRESETS["tiny"]), MemoryBank(), {})
    arguments = [
        "segment",
        "--weights",
        tmp_path / "other",
        "--task",
        task,
        "--query",
        scan[0],
        "--output",
        tmp_path / "o",
    ]
    assert main([str(a) for a in arguments]) == 2
    assert f"{task}: a task file goes with the weights that made it" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def damaged(task, change):
    with safe_open(task, "pt") as stored:
        about = json.loads(stored.metadata()["iris_task"])
    tensors = load_file(task)
    change(about, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, task, {"iris_task": json.dumps(about)})


@pytest.mark.parametrize(
    "change",
    [
        lambda about, t: t.pop("tokens"),
        lambda about, t: t.update(surprise=torch.zeros(1)),
        lambda about, t: t.update(tokens=t["tokens"][:, :, :, :3]),
        lambda about, t: t.update(tokens=t["tokens"] * float("nan")),
        lambda about, t: t.pop("reference0/scale1"),
        lambda about, t: t.update({"reference0/labels": t["reference0/labels"] + 77}),
        lambda about, t: t.update({"reference0/labels": t["reference0/labels"].float()}),
        lambda about, t: t.update({"reference0/sets": t["reference0/sets"].repeat(1, 2)}),
        lambda about, t: t.update({"reference0/around": t["reference0/around"][:, :, 1:]}),
        lambda about, t: about["references"][0].update(masks=[0.0, 0, 0, 0]),
        lambda about, t: about["references"][0].update(labels=[2**20, 2**20, 2**20]),
        lambda about, t: about["references"][0].update(labels=[1, 1, 1]),
        lambda about, t: t.update({"reference0/labels": t["reference0/labels"][:-9]}),
        lambda about, t: t.update({"reference0/labels": t["reference0/labels"] + 1}),
        lambda about, t: about["references"][0].update(scale0=[1.0, float("nan"), 0, 0]),
        lambda about, t: about["references"][0].update(view_mm=[[1, 1, 1], [0, 2, 2]]),
        lambda about, t: about["references"][0].pop("masks"),
        lambda about, t: about.update(references=5),
        lambda about, t: about.pop("references"),
        lambda about, t: about.update(values=[1, 2]),
        lambda about, t: about.update(values=[0]),
        lambda about, t: about.update(names=["a", "b"]),
        lambda about, t: about.update(spacing_mm=-1.0),
        lambda about, t: about.update(spacing_mm="wide"),
        lambda about, t: about.update(scheme="../../etc"),
        lambda about, t: about.pop("overviews_mm"),
    ],
)
def test_a_damaged_task_is_refused(change, iris, task, scan, tmp_path):
    damaged(task, change)
    code, error = iris("segment", "--task", task, "--query", scan[0], "--output", tmp_path / "o")
    assert code == 2
    assert f"{task}: not usable as a task file" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_no_task_is_refused(content, iris, scan, tmp_path):
    path = tmp_path / "odd.task.safetensors"
    path.write_bytes(content)
    code, error = iris("segment", "--task", path, "--query", scan[0], "--output", tmp_path / "o")
    assert code == 2
    assert f"{path}: not usable as a task file" in error


def test_references_and_masks_come_in_pairs(iris, scan, tmp_path):
    code, error = iris("segment", "--reference", scan[0], "--query", scan[0], "--output", tmp_path / "o")
    assert code == 2
    assert "pairs" in error
    code, error = iris("segment", "--query", scan[0], "--output", tmp_path / "o")
    assert code == 2
    assert "classes that the weights know" in error
