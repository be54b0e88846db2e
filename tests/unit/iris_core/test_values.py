"""Small parts: intensities, the memory bank, combining tasks, checkpoints, metrics."""

import json
import resource
import shutil
import time

import numpy as np
import pytest
import torch

from iris_core import checkpoint, files
from iris_core.case import Case, InputError, plain_classes
from iris_core.embeddings import POSITIONS, MemoryBank, combine, thinned
from iris_core.evaluation.metrics import dice, surface_dice
from iris_core.evaluation.protocol import Score, draw_pairs, draw_pools, summarise
from iris_core.intensity import detect_scheme, normalise
from iris_core.model.iris import PRESETS, Iris
from iris_core.model.task_encoder import Task
from iris_core.strategies.memory_bank import known_classes


def a_task(k=2, n=5) -> Task:
    torch.manual_seed(k)
    prototypes = torch.nn.functional.normalize(torch.randn(1, k, 3, 2, 8), dim=-1)
    compact = torch.randn(1, k, 4, 64), prototypes, torch.rand(1, k, 10)
    return Task(*compact, torch.randn(1, n, 8), torch.rand(1, k, n), torch.rand(1, k, 3))


def test_two_classes_never_share_a_name():
    labels = np.array([[[0, 1, 2]]])
    assert [c.name for c in plain_classes(labels, {2: "liver"})] == ["class 1", "liver"]
    assert [c.name for c in plain_classes(labels, {1: "a", 2: "class 1"})] == ["a", "class 1"]
    with pytest.raises(InputError, match="a name of its own"):
        plain_classes(labels, {2: "class 1"})


def test_intensities_are_clipped_then_standardised():
    image = np.linspace(-2000, 3000, 1000).reshape(10, 10, 10)
    assert detect_scheme(image) == "ct"
    assert detect_scheme(np.abs(image)) == "percentile"
    ct = normalise(image, "ct")
    assert ct.mean() == pytest.approx(0, abs=1e-5)
    assert ct.std() == pytest.approx(1, abs=1e-4)
    assert np.ptp(ct[image > 500]) == 0
    assert np.ptp(ct[image < -990]) == 0
    assert np.isfinite(normalise(np.full((4, 4, 4), 7.0), "percentile")).all()
    assert (normalise(np.abs(image), "percentile") * 0 == 0).all()
    with pytest.raises(InputError, match="intensity scheme"):
        normalise(image, "mri")


def test_the_bank_averages_each_class_and_survives_a_file(tmp_path):
    bank, task = MemoryBank(), a_task()
    bank.update(["D/a", "D/b"], task)
    assert torch.allclose(bank.entries["D/a"].tokens, task.tokens[:, :1])
    other = a_task().map(lambda t: t + 1)
    bank.update(["D/b", "D/a"], other)  # a second value of each, classes in another order
    decay = 1 / 11
    expected = decay * task.tokens[:, :1] + (1 - decay) * other.tokens[:, 1:]
    assert torch.allclose(bank.entries["D/a"].tokens, expected, atol=1e-6)
    assert bank.entries["D/a"].memory_keys.shape[1] == 0
    bank.save(tmp_path / "bank.safetensors")
    loaded = MemoryBank.load(tmp_path / "bank.safetensors")
    assert loaded.counts == {"D/a": 2, "D/b": 2}
    assert torch.equal(loaded.entries["D/b"].location, bank.entries["D/b"].location)


def test_combined_tasks_are_weighted_means_and_memories_joined():
    first, second = a_task(), a_task().map(lambda t: t + 1)
    both = combine([first, second], torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    assert torch.allclose(both.tokens[:, 0], (first.tokens[:, 0] + 3 * second.tokens[:, 0]) / 4)
    assert torch.allclose(both.tokens[:, 1], second.tokens[:, 1])  # only the second shows this class
    assert both.memory_keys.shape[1] == 10
    assert torch.allclose(both.prototypes.norm(dim=-1), torch.ones(1))


def test_a_long_memory_is_thinned_evenly():
    task = a_task(n=2 * POSITIONS + 3)
    short = thinned(task)
    assert short.memory_keys.shape[1] == short.memory_masks.shape[2] <= POSITIONS
    assert torch.equal(short.memory_keys[:, 1], task.memory_keys[:, 3])
    assert thinned(short) is short


RECORDS = ["1", "[]", '{"datasets": 1}', '{"datasets": {"D": 1}}', '{"datasets": {"D": {"classes": {"a": "x"}}}}']
RECORDS += ['{"datasets": {"D": {"classes": {"a": NaN}}}}', '{"datasets": {"D": {"scheme": "mri"}}}', "[" * 100_000]
RECORDS += ['{"datasets": {"D": {"train": [[]]}}}', '{"datasets": {"D": {"val": 1}}}']


@pytest.mark.parametrize("text", RECORDS)
def test_a_training_record_of_another_form_is_refused(tiny_weights, tmp_path, text):
    folder = shutil.copytree(tiny_weights, tmp_path / "weights")
    (folder / "training.json").write_text(text)
    with pytest.raises(InputError, match="not usable as Iris weights"):
        checkpoint.load(folder)


def test_classes_without_sizes_are_not_offered(tiny_weights):
    bank = MemoryBank()
    bank.update(["D/a", "lonely"], a_task())
    assert known_classes(bank, {"datasets": {"D": {"scheme": "ct"}}}) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"attention_layers": 400_000}, {"blocks": [1, 10**6, 1]}, {"widths": [8, 10**6, 16]}, {"query_tokens": 10**9},
        {"widths": [8, 4096, 4096]},
        {"widths": [1] * 10**5, "blocks": [1] * 10**5}, {"memory_width": -1}, {"heads": 0}, {"window": 1e9},
        {"stem_stride": 0}, {"stem_stride": 256, "window": 1024},
        {"widths": 8}, {"widths": [True, 64, 16]}, {"prototype_width": "8"},
    ],
    ids=",".join,
)  # fmt: skip
def test_a_configuration_of_another_model_takes_neither_time_nor_memory(tiny_weights, tmp_path, change):
    folder = shutil.copytree(tiny_weights, tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    started = time.process_time()
    with pytest.raises(InputError, match="not usable as Iris weights"):
        checkpoint.load(folder)
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_has_no_fewer_weights_than_its_configuration_says(preset):
    model = Iris(PRESETS[preset])
    whole = sum(part.numel() for part in model.state_dict().values())
    assert whole / 8 < model.config.least_weights < whole


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = Iris(PRESETS["tiny"])
    with torch.no_grad():
        model.mask_decoder.bias.fill_(float("nan"))
    checkpoint.save(tmp_path, model, MemoryBank(), {})
    with pytest.raises(InputError, match="finite numbers"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_survives_and_a_damaged_one_is_refused(tmp_path):
    model = Iris(PRESETS["tiny"])
    checkpoint.save(tmp_path, model, MemoryBank(), {"datasets": {}})
    loaded = checkpoint.load(tmp_path)
    assert loaded.training == {"datasets": {}}
    for name, value in model.state_dict().items():
        assert torch.allclose(loaded.model.state_dict()[name], value, atol=1e-3), name
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bank.safetensors",
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    (tmp_path / "config.json").write_text('{"widths": [8], "unknown": 1}')
    with pytest.raises(InputError, match="not usable as Iris weights"):
        checkpoint.load(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(files.WriteError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_text("utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_dice_and_its_summary():
    a = np.array([1, 1, 0, 0], bool)
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.array([1, 0, 0, 0], bool)) == pytest.approx(2 / 3)
    assert dice(~a & a, ~a & a) is None
    assert dice(a, ~a, valid=a) == 0
    dices = {"x": 1.0, "y": None}, {"x": 0.5}, {}
    found = summarise([Score("q", ("r",), d, {}, 1.0) for d in dices])
    assert found["mean_dice"] == 0.75 and found["mean_surface_dice"] is None
    assert found["per_class"] == {"x": {"dice_mean": 0.75, "dice_std": 0.25, "n": 2}}


def test_surface_dice_is_a_share_of_the_surfaces_in_mm():
    a = np.zeros((40, 40, 20), bool)
    a[10:30, 10:30, 5:15] = True
    moved = np.roll(a, 2, 0)
    assert surface_dice(a, a, (1, 1, 2), 0.5) == 1
    assert surface_dice(a, moved, (1, 1, 2), 2.0) == pytest.approx(1, abs=0.01)
    assert 0.5 < surface_dice(a, moved, (1, 1, 2), 1.0) < 0.95
    assert surface_dice(a, moved, (0.5, 1, 2), 1.0) == pytest.approx(1, abs=0.01)  # 2 voxels are 1 mm now
    nothing = np.zeros_like(a)
    assert surface_dice(a, nothing, (1, 1, 2), 2.0) == surface_dice(nothing, a, (1, 1, 2), 2.0) == 0
    assert surface_dice(nothing, nothing, (1, 1, 2), 2.0) is None


def test_pools_are_drawn_from_other_patients():
    cases = {f"c{i}": f"p{i // 2}" for i in range(8)}
    draws = draw_pools(cases, ["c0", "c1"], [f"c{i}" for i in range(2, 8)], 3, 4, seed=0)
    assert len(draws) == 4 and len({d.references for d in draws}) > 1
    assert all(len(set(d.references)) == 3 and d.queries == ("c0", "c1") for d in draws)
    assert draws == draw_pools(cases, ["c0", "c1"], [f"c{i}" for i in range(2, 8)], 3, 4, seed=0)
    assert len(draw_pools(cases, ["c0"], ["c2", "c3"], 2, 5, seed=0)) == 1  # all of it, once
    with pytest.raises(InputError, match="other patients"):
        draw_pools(cases, ["c0"], ["c1", "c2"], 1, 1, seed=0)
    with pytest.raises(InputError, match="1 to 2 cases"):
        draw_pools(cases, ["c0"], ["c2", "c3"], 5, 1, seed=0)


def test_references_are_other_patients_and_reproducible():
    cases = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    pairs = draw_pairs(cases, ["a1", "b1"], list(cases), draws=2, seed=3)
    assert pairs == draw_pairs(cases, ["a1", "b1"], list(cases), draws=2, seed=3)
    assert len(pairs) == 4
    assert all(cases[r] != cases[q] for r, q in pairs)
    assert draw_pairs({"a1": "a", "a2": "a"}, ["a1"], ["a1", "a2"], 1, 0) == []


def test_a_case_refuses_what_no_step_can_use():
    image, affine = np.zeros((3, 3, 3), np.float32), np.eye(4)
    for bad, message in (
        ({"image": image[0]}, "3 dimensions"),
        ({"affine": np.diag([0.0, 1, 1, 1])}, "voxel size"),
        ({"labels": np.zeros((2, 2, 2), int)}, "image's grid"),
        ({"image": image * np.nan}, "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            Case(**({"image": image, "affine": affine} | bad))
