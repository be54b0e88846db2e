"""`iris label`: from one mask to an nnU-Net raw dataset."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ball, write_nifti

from app.cli import main
from nnunet_adapters import new_dataset

# nnUNetv2_train would import every trainer, and for one of them timm and a torchvision that fits torch.
TRAINING = """
import json, sys, torch
from pathlib import Path
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_1epoch
plans, dataset = (json.loads(Path(sys.argv[1], name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
trainer = nnUNetTrainer_1epoch(plans | {"continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu"))
trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 10, 2
trainer.run_training()
"""


def noisy(mask: np.ndarray, seed: int) -> np.ndarray:
    return (mask * 100 + np.random.default_rng(seed).normal(0, 10, mask.shape)).astype(np.float32)


@pytest.fixture
def label(scan, tmp_path, eager_weights, monkeypatch):
    """The command with queries of three formats, one of them unreadable."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    folder = tmp_path / "queries"
    folder.mkdir()
    write_nifti(folder / "patient 2 (left).nii.gz", noisy(ball(), 1), np.diag([-1.0, 1, 2, 1]))
    sitk.WriteImage(sitk.GetImageFromArray(noisy(ball(), 2).astype(np.int64)), str(folder / "third_0000.nrrd"))
    (folder / "damaged.nii.gz").write_text("no scan")
    write_nifti(tmp_path / "mask.nii.gz", (ball() * 7).astype(np.uint8))

    def run(*extra, out="Dataset123_Ball", query=folder):
        arguments = [
            "label",
            "--weights",
            eager_weights,
            "--reference",
            scan[0],
            "--mask",
            scan[1],
            "--names",
            "7=ball",
        ]
        arguments += ["--query", query, "--output", tmp_path / out, *extra]
        return main([str(a) for a in arguments]), tmp_path / out

    return run


def rows(out: Path) -> dict[str, dict]:
    with (out / "cases.csv").open(encoding="utf-8", newline="") as table:
        return {row["case"]: row for row in csv.DictReader(table)}


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for folder in ("imagesTr", "labelsTr") for path in (out / folder).iterdir()}


def test_it_writes_what_nnunet_checks(label, scan, tmp_path, capfd):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    code, out = label("--min-confidence", 0)
    assert code == 1  # damaged.nii.gz
    cases = {"scan", "patient_2_left_", "third"}
    assert files(out) == {f"imagesTr/{c}_0000.nii.gz" for c in cases} | {f"labelsTr/{c}.nii.gz" for c in cases}
    description = json.loads((out / "dataset.json").read_text("utf-8"))
    assert description["labels"] == {"background": 0, "ball": 1}
    assert (description["numTraining"], description["file_ending"]) == (3, ".nii.gz")
    truth = np.asanyarray(nibabel.load(out / "labelsTr" / "scan.nii.gz").dataobj)
    assert (truth == ball()).all()
    query = nibabel.load(tmp_path / "queries" / "patient 2 (left).nii.gz")
    for path in (out / "imagesTr" / "patient_2_left__0000.nii.gz", out / "labelsTr" / "patient_2_left_.nii.gz"):
        assert (nibabel.load(path).affine == query.affine).all()
    assert (np.asanyarray(nibabel.load(path.parents[1] / "imagesTr" / "third_0000.nii.gz").dataobj).dtype) == np.float32
    assert "no scan" not in rows(out)["damaged"]["left out"] != ""
    verify_dataset_integrity(str(out), 1)


def test_what_is_unsure_is_listed_and_left_out(label, tmp_path):
    _, out = label("--min-confidence", 0)
    before = (out / "masks" / "third_0000.nii.gz").stat().st_mtime_ns
    label("--min-confidence", 1, "--continue")
    assert files(out) == {"imagesTr/scan_0000.nii.gz", "labelsTr/scan.nii.gz"}
    assert json.loads((out / "dataset.json").read_text("utf-8"))["numTraining"] == 1
    assert (out / "masks" / "third_0000.nii.gz").stat().st_mtime_ns == before
    third = rows(out)["third"]
    assert "below 1.0: ball" in third["left out"]
    assert 0 <= float(third["confidence ball"]) < 1
    assert rows(out)["scan"]["left out"] == ""


def test_bad_input_writes_nothing(label, scan, tmp_path, capsys):
    for extra, out, why in (
        ((), "hippocampus", "DatasetNNN_Name"),
        (("--min-confidence", 2), "Dataset001_A", "from 0 to 1"),
        (("--task", "a.task.safetensors"), "Dataset001_A", "--reference and --mask alone"),
        (("--query", scan[0]), "Dataset001_A", "rename one"),
    ):
        code, folder = label(*extra, out=out)
        assert code == 2
        assert why in capsys.readouterr().err
        assert not folder.exists()
    foreign = tmp_path / "Dataset002_Foreign"
    (foreign / "imagesTr").mkdir(parents=True)
    write_nifti(foreign / "imagesTr" / "a_0000.nii.gz", noisy(ball(), 3))
    assert label(out=foreign.name)[0] == 2
    assert "another origin" in capsys.readouterr().err
    assert [path.name for path in foreign.rglob("*.nii.gz")] == ["a_0000.nii.gz"]


@pytest.mark.slow
def test_nnunet_plans_preprocesses_and_trains_an_epoch(scan, eager_weights, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    for i in range(5):
        write_nifti(folder / f"q{i}.nii.gz", noisy(ball(), i))
    where = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = os.environ | where | {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "false"}

    def run(*command):
        subprocess.run([str(c) for c in command], env=environment, cwd=Path(__file__).parents[3], check=True)

    arguments = ["--weights", eager_weights, "--reference", scan[0], "--mask", scan[1], "--query", folder]
    out = tmp_path / "nnUNet_raw" / "Dataset123_Ball"
    run(sys.executable, "-m", "app.cli", "label", *arguments, "--output", out, "--min-confidence", 0)
    programs = Path(sys.executable).parent
    planning = ["-d", 123, "-c", "3d_fullres", "-npfp", 1, "-np", 1, "--verify_dataset_integrity"]
    run(programs / "nnUNetv2_plan_and_preprocess", *planning)
    run(sys.executable, "-c", TRAINING, tmp_path / "nnUNet_preprocessed" / "Dataset123_Ball")
    assert list((tmp_path / "nnUNet_results").rglob("checkpoint_final.pth"))


def test_a_case_whose_name_begins_like_a_formula_is_known_again(tmp_path):
    scan = tmp_path / "-a.nii.gz"
    (tmp_path / "new").mkdir()
    text = new_dataset._table([new_dataset.Labelled(scan, list)], new_dataset.case_names([scan]), [])
    (tmp_path / "new" / new_dataset.TABLE).write_text(text, "utf-8", newline="")
    assert new_dataset._former(tmp_path / "new") == {"-a"}
