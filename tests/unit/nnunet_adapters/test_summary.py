"""summary.json is nnunetv2's own, of the right files, with the right values."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from conftest import write_nifti

from app.cli import main
from app.commands.probes import summarise_predictions
from iris_core.case import InputError
from nnunet_adapters.raw import open_dataset
from nnunet_adapters.summary import write_summary


@pytest.fixture
def predictions(raw_data, tmp_path):
    """The truth of two cases of a dataset, as if it were predicted: one under its image's name."""

    def make(name: str):
        folder = tmp_path / name
        folder.mkdir()
        labels = raw_data / name / "labelsTr"
        shutil.copy(labels / "case0.nii.gz", folder / "case0.nii.gz")
        shutil.copy(labels / "case1.nii.gz", folder / "case1_0000.nii.gz")
        return folder

    return make


def change(path, old: int, new: int) -> None:
    image = nibabel.load(path)
    array = np.asarray(image.dataobj).copy()
    array[array == old] = new
    write_nifti(path, array, image.affine)


def test_nnunets_own_reader_reads_it_and_the_metrics_are_right(raw_data, predictions):
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    folder = predictions("Dataset901_Balls")
    change(folder / "case0.nii.gz", 4, 0)
    dataset = open_dataset("901", raw_data)
    write_summary(dataset, ["case0", "case1"], folder, folder / "summary.json")
    found = load_summary_json(str(folder / "summary.json"))
    assert set(found["mean"]) == {1, 4}
    first, second = sorted(found["metric_per_case"], key=lambda entry: entry["prediction_file"])
    assert first["prediction_file"] == str(folder / "case0.nii.gz")
    assert second["prediction_file"] == str(folder / "case1_0000.nii.gz")
    assert second["reference_file"] == str(raw_data / "Dataset901_Balls" / "labelsTr" / "case1.nii.gz")
    assert [first["metrics"][k]["Dice"] for k in (1, 4)] == [1, 0]
    assert [second["metrics"][k]["Dice"] for k in (1, 4)] == [1, 1]
    core = (dataset.case("case0").labels == 4).sum()
    assert first["metrics"][4]["FN"] == first["metrics"][4]["n_ref"] == core
    assert found["foreground_mean"]["Dice"] == pytest.approx(0.75)


def test_regions_and_the_ignore_label_are_dataset_jsons(raw_data, predictions, capsys):
    folder = predictions("Dataset902_Regions")
    for path in folder.iterdir():
        change(path, 3, 2)  # wrong only where nothing is known
    change(folder / "case0.nii.gz", 2, 1)  # the core is missed, the whole is right
    found = write_summary(open_dataset("902", raw_data), ["case0", "case1"], folder, folder / "summary.json")
    means = {key: value["Dice"] for key, value in found["mean"].items()}
    summarise_predictions(open_dataset("902", raw_data), ["case0", "case1"], folder, None)
    assert "whole" in capsys.readouterr().out
    assert means == pytest.approx({(1, 2): 1.0, (2,): 0.5})


def test_values_follow_the_names_of_run_json(raw_data, predictions):
    folder = predictions("Dataset901_Balls")
    change(folder / "case1_0000.nii.gz", 4, 2)  # as the memory bank numbers its classes
    dataset = open_dataset("901", raw_data)
    with pytest.raises(InputError, match=r"case1_0000.*found \[2\]"):
        write_summary(dataset, ["case0", "case1"], folder, folder / "summary.json")
    classes = {"1": "Dataset901_Balls/ball", "2": "Dataset901_Balls/core"}
    (folder / "run.json").write_text(json.dumps({"results": {"case1_0000.nii.gz": {"classes": classes}}}))
    found = write_summary(dataset, ["case0", "case1"], folder, folder / "summary.json")
    assert found["foreground_mean"]["Dice"] == 1


def test_what_does_not_fit_is_named(raw_data, predictions):
    folder = predictions("Dataset901_Balls")
    dataset = open_dataset("901", raw_data)
    with pytest.raises(InputError, match="1 are missing: case2"):
        write_summary(dataset, ["case0", "case1", "case2"], folder, folder / "summary.json")
    with pytest.raises(InputError, match="nowhere"):
        write_summary(dataset, ["case0"], folder / "nowhere", folder / "summary.json")
    write_nifti(folder / "case0.nii.gz", np.zeros((5, 5, 5), np.uint8))
    with pytest.raises(InputError, match=r"case0.*grid"):
        write_summary(dataset, ["case0"], folder, folder / "summary.json")
    assert not (folder / "summary.json").exists()


def test_what_iris_segments_evaluates(raw_data, tiny_weights, tmp_path, capsys):
    """The whole way: segment the split's images, then ask for nnU-Net's summary."""
    dataset = raw_data / "Dataset901_Balls"
    out = tmp_path / "masks"
    shown = ["--reference", dataset / "imagesTr/case5_0000.nii.gz", "--mask", dataset / "labelsTr/case5.nii.gz"]
    queries = [dataset / f"imagesTr/case{i}_0000.nii.gz" for i in range(4)]
    command = ["segment", "--weights", tiny_weights, *shown, "--query", *queries, "--output", out, "--no-confidence"]
    assert main([str(a) for a in command]) == 0
    ask = ["evaluate", "--weights", tiny_weights, "--dataset", "901", "--raw-data", raw_data, "--predictions", out]
    capsys.readouterr()
    assert main([str(a) for a in [*ask, "--split", "all"]]) == 2
    assert "2 are missing: case4, case5" in capsys.readouterr().err
    for i in (4, 5):
        shutil.copy(out / "case0_0000.nii.gz", out / f"case{i}.nii.gz")
    assert main([str(a) for a in [*ask, "--split", "all"]]) == 0
    said = capsys.readouterr().out
    assert "core" in said and str(out / "summary.json") in said
    assert len(json.loads((out / "summary.json").read_text("utf-8"))["metric_per_case"]) == 6
