"""nnU-Net raw datasets: identifiers, splits by patient, regions, the ignore label, channels, and clear errors."""

import json
import shutil

import numpy as np
import pytest

from iris_core.case import InputError
from iris_core.data.episodes import EpisodeDataset
from iris_core.evaluation.protocol import evaluate_one_shot
from iris_core.model.iris import PRESETS
from nnunet_adapters.raw import build_cache, find_dataset, open_dataset, split


def test_a_dataset_is_found_by_id_or_name(raw_data, monkeypatch):
    for identifier in ("901", "Dataset901_Balls"):
        assert find_dataset(identifier, raw_data).name == "Dataset901_Balls"
    monkeypatch.setenv("nnUNet_raw", str(raw_data))
    assert find_dataset("902").name == "Dataset902_Regions"
    with pytest.raises(InputError, match="must name one folder"):
        find_dataset("7")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="set nnUNet_raw"):
        find_dataset("7")


def test_a_case_lies_on_its_files_grid(raw_data):
    case = open_dataset("901", raw_data).case("case0")
    assert case.labels.shape == (24, 20, 22)
    assert np.allclose(case.affine, np.diag([-1, 1, 1, 1]))
    assert [(c.name, c.value) for c in case.present()] == [("ball", 1), ("core", 4)]


def test_splits_are_by_patient_written_once_and_reused(raw_data, tmp_path):
    dataset = open_dataset("901", raw_data)
    train, val = split(dataset, tmp_path)
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert len(folds) == 3  # as many as patients, at most nnU-Net's 5
    for fold in folds:
        assert not {dataset.patients[c] for c in fold["train"]} & {dataset.patients[c] for c in fold["val"]}
    folds[0] = {"train": val, "val": train}
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert split(dataset, tmp_path) == (val, train)


def test_regions_and_ignore_label_reach_episodes_and_evaluation(raw_data, tmp_path, tiny):
    dataset = open_dataset("902", raw_data)
    assert [(c.name, c.value, c.members) for c in dataset.classes] == [("whole", 1, (1, 2)), ("core", 2, (2,))]
    assert dataset.ignore == 3
    build_cache([dataset], tmp_path / "splits", tmp_path / "cache")
    episodes = EpisodeDataset(tmp_path / "cache", PRESETS["tiny"], seed=0)
    episode = next(e for e in (episodes[i] for i in range(20)) if len(e.keys) == 2)
    by_name = dict(zip((k.split("/")[1] for k in episode.keys), episode.reference_masks[0], strict=True))
    assert (by_name["core"] <= by_name["whole"] + 1e-5).all()  # regions overlap
    assert 0 < episode.query_valid.mean() < 1
    score = next(iter(evaluate_one_shot(tiny, dataset.case, [("case0", "case2")])))
    assert set(score.dice) == {"whole", "core"}


def test_episodes_depend_on_seed_and_index_alone(raw_data, tmp_path):
    build_cache([open_dataset("901", raw_data)], tmp_path / "splits", tmp_path / "cache")
    first, again, other = (EpisodeDataset(tmp_path / "cache", PRESETS["tiny"], seed=s) for s in (0, 0, 1))
    first[3]
    assert (first[5].query == again[5].query).all()
    assert first[5].query.shape != other[5].query.shape or (first[5].query != other[5].query).any()
    for i in range(30):
        episode = first[i]
        assert (episode.reference_masks.sum((2, 3, 4)) > 0).all()  # the reference keeps its annotated region
        assert episode.reference.shape[2:] == episode.reference_masks.shape[2:]


def test_broken_datasets_are_named(raw_data, tmp_path):
    broken = tmp_path / "Dataset901_Balls"
    shutil.copytree(raw_data / "Dataset901_Balls", broken)
    with pytest.raises(InputError, match="--channel"):
        open_dataset("901", tmp_path, channel=1)
    (broken / "labelsTr" / "case3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case3\.nii\.gz"):
        open_dataset("901", tmp_path)
    (broken / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset\.json"):
        open_dataset("901", tmp_path)
