"""nnU-Net raw datasets: identifiers, splits by patient, regions, the ignore label, channels, and clear errors."""

import json
import shutil

import numpy as np
import pytest

from iris_core.case import Case, InputError, plain_classes
from iris_core.data.cache import is_current, read_case, read_index, write_case
from iris_core.data.episodes import EpisodeDataset
from iris_core.evaluation.protocol import Draw, evaluate
from iris_core.model.iris import PRESETS
from iris_core.strategies import Context
from nnunet_adapters.raw import build_cache, find_dataset, open_dataset, prepare_training, split


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
    folds = json.loads((tmp_path / "splits_final.json").read_text("utf-8"))
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
    index = build_cache([dataset], tmp_path / "splits", tmp_path / "cache")
    episodes = EpisodeDataset(tmp_path / "cache", index, PRESETS["tiny"], seed=0, synthetic=0.0)
    drawn = [episodes[i] for i in range(20)]
    assert any(0 < e.query_valid.mean() < 1 for e in drawn)
    episode = next(e for e in drawn if len(e.keys) == 2)
    by_name = dict(zip((k.split("/")[1] for k in episode.keys), episode.reference_masks[0], strict=True))
    assert (by_name["core"] <= by_name["whole"] + 1e-5).all()  # regions overlap
    score = next(evaluate("one_shot", Context(tiny), dataset.case, [Draw(("case0",), ("case2",))], 2.0))
    assert set(score.dice) == set(score.surface_dice) == {"whole", "core"}


def test_episodes_depend_on_seed_and_index_alone(raw_data, tmp_path):
    index = build_cache([open_dataset("901", raw_data)], tmp_path / "splits", tmp_path / "cache")
    first, again, other = (
        EpisodeDataset(tmp_path / "cache", index, PRESETS["tiny"], seed=s, synthetic=0.5) for s in (0, 0, 1)
    )
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


def test_a_torn_patient_is_refused(raw_data, tmp_path):
    dataset = open_dataset("901", raw_data)
    cases = sorted(dataset.files)
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": cases[:1], "val": cases[1:]}]))
    with pytest.raises(InputError, match="every patient"):
        split(dataset, tmp_path)


def test_the_cache_notices_changes_and_is_enough_elsewhere(raw_data, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    shutil.copytree(raw_data / "Dataset901_Balls", tmp_path / "raw" / "Dataset901_Balls")
    shutil.copytree(raw_data / "Dataset902_Regions", tmp_path / "raw" / "Dataset902_Regions")
    paths = {"splits": tmp_path / "splits", "cache": tmp_path / "cache"}
    both = prepare_training(("901", "902"), (), tmp_path / "raw", 0, **paths)
    entry = tmp_path / "cache" / "Dataset901_Balls" / "case0.npz"
    made = entry.stat().st_mtime_ns
    prepare_training(("901",), (), tmp_path / "raw", 0, **paths)
    assert entry.stat().st_mtime_ns == made
    shutil.copy(
        tmp_path / "raw/Dataset901_Balls/labelsTr/case1.nii.gz", tmp_path / "raw/Dataset901_Balls/labelsTr/case0.nii.gz"
    )
    prepare_training(("901",), (), tmp_path / "raw", 0, **paths)
    assert entry.stat().st_mtime_ns > made
    shutil.rmtree(tmp_path / "raw")
    assert prepare_training(("902", "Dataset901_Balls"), (), None, 0, **paths) == both


def test_the_cache_is_no_finer_than_tasks_ask_for(tmp_path):
    labels = np.zeros((300, 60, 60), np.int32)
    labels[100:200, 10:50, 10:50] = 5
    case = Case(labels.astype(np.float32), np.diag([0.2, 1.0, 2.0, 1.0]), labels, plain_classes(labels))
    write_case(tmp_path / "case.npz", case, "percentile", "here")
    assert is_current(tmp_path / "case.npz", "here")
    assert not is_current(tmp_path / "case.npz", "there")
    cached = read_case(tmp_path / "case.npz")
    assert cached.spacing_mm[0] > 0.2
    assert cached.spacing_mm[1:] == (1.0, 2.0)
    extents = np.array(cached.labels.shape) * cached.spacing_mm
    assert np.allclose(extents, (60, 60, 120))
    volume = (cached.labels == 5).sum() * np.prod(cached.spacing_mm)
    assert volume == pytest.approx((labels == 5).sum() * 0.4, rel=0.03)


DEEP = "[" * 100_000
GOOD = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1, "core": 4}, "file_ending": ".nii.gz"}
OTHER_FORMS = {
    "a number": "1",
    "too deep": DEEP,
    "an ending that is a number": GOOD | {"file_ending": 5},
    "channels in a list": GOOD | {"channel_names": ["MRI"]},
    "a channel that is a number": GOOD | {"channel_names": {"0": 1.5}},
    "labels in a list": GOOD | {"labels": [["ball", 1]]},
    "a label that is an object": GOOD | {"labels": {"background": 0, "ball": {}}},
    "a label that is none": GOOD | {"labels": {"background": [], "ball": 1}},
    "a label of two lines": GOOD | {"labels": {"background": 0, "ball\nof wool": 1}},
    "a label beyond 32 bits": GOOD | {"labels": {"background": 0, "ball": 2**40}},
    "regions without order": GOOD | {"labels": {"background": 0, "ball": [1, 4]}},
    "an order that is none": GOOD | {"labels": {"background": 0, "ball": [1, 4]}, "regions_class_order": ["x"]},
    "files in a list": GOOD | {"dataset": [1]},
}


@pytest.mark.parametrize("kind", OTHER_FORMS)
def test_descriptions_of_another_form_are_refused(raw_data, tmp_path, kind):
    shutil.copytree(raw_data / "Dataset901_Balls", tmp_path / "Dataset901_Balls")
    form = OTHER_FORMS[kind]
    (tmp_path / "Dataset901_Balls" / "dataset.json").write_text(form if isinstance(form, str) else json.dumps(form))
    with pytest.raises(InputError, match=r"dataset\.json: "):
        open_dataset("901", tmp_path)


@pytest.mark.parametrize("text", ["[1]", "3", DEEP, "\xff", "{"])
def test_patients_of_another_form_are_refused(raw_data, tmp_path, text):
    shutil.copytree(raw_data / "Dataset901_Balls", tmp_path / "Dataset901_Balls")
    (tmp_path / "Dataset901_Balls" / "patients.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match=r"patients\.json: must be JSON"):
        open_dataset("901", tmp_path)


FOLDS = ["{}", "1", "[]", "[1]", "[{}]", DEEP, '[{"train": []}]', '[{"train": 1, "val": 2}]', '["train"]']
FOLDS += ['[{"train": [[]], "val": []}]', '[{"train": {"case0": 1}, "val": []}]', '[{"train": "case0", "val": []}]']


@pytest.mark.parametrize("text", FOLDS)
def test_splits_of_another_form_are_refused(raw_data, tmp_path, text):
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(InputError, match=r"splits_final\.json: must be JSON, a list of folds"):
        split(open_dataset("901", raw_data), tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"datasets": 1}', DEEP])
def test_a_cache_with_another_index_is_refused(tmp_path, text):
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(InputError, match=r"cache\.json: not usable"):
        read_index(tmp_path)
