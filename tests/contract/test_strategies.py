"""Every strategy makes a TaskEmbedding that decodes; what holds for one holds for all."""

import importlib
from dataclasses import fields, replace

import nibabel
import numpy as np
import pytest
import torch
from conftest import ball

from iris_core.case import Case, InputError, plain_classes
from iris_core.embeddings import MemoryBank, TaskEmbedding, context_ensemble
from iris_core.inference import segment
from iris_core.model.losses import segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.strategies import STRATEGIES, Context, Options
from iris_core.strategies.references import encode_at, shared_scale
from iris_core.task_file import load_task, save_task

WITH_REFERENCES = [name for name in STRATEGIES if name != "memory_bank"]


def task(strategy, model, references, grid="auto", query=None, **options) -> TaskEmbedding:
    """The embedding that a strategy makes for a query, by default the first reference's image."""
    context = Context(model, references, grid=grid, options=Options(**options))
    return STRATEGIES[strategy](context)(query or references[0]).embedding


def case_of(labels, spacing=(1.0, 1.0, 1.0), name="case") -> Case:
    rng = np.random.default_rng(0)
    image = (labels * 50 + rng.normal(0, 5, labels.shape)).astype(np.float32)
    return Case(image, np.diag([*spacing, 1.0]), labels, plain_classes(labels), name=name)


@pytest.fixture
def reference() -> Case:
    labels = ball().astype(np.int32) * 7
    labels[ball(radius=3)] = 40
    return case_of(labels)


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
@pytest.mark.parametrize("grid", ["auto", "paper"])
def test_values_names_and_grid_come_through(strategy, grid, tiny, reference):
    embedding = task(strategy, tiny, [reference], grid)
    assert embedding.values == (7, 40)
    assert embedding.names == ("class 7", "class 40")
    assert embedding.spacing_mm == (1.5 if grid == "paper" else pytest.approx(1.0))
    query = case_of(np.zeros((50, 18, 9), np.int32), (0.7, 1.1, 4.0))
    labels = segment(tiny, embedding, query)
    assert labels.shape == query.image.shape
    assert set(np.unique(labels)) <= {0, 7, 40}


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
def test_the_same_input_gives_the_same_bits(strategy, tiny, reference):
    first, second = (task(strategy, tiny, [reference]) for _ in range(2))
    assert torch.equal(first.task.tokens, second.task.tokens)
    assert (segment(tiny, first, reference) == segment(tiny, second, reference)).all()


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
def test_a_query_in_another_orientation_gives_the_same_anatomy(strategy, tiny, reference):
    """The result follows the query's own axes: reorienting the file reorients the mask and nothing else."""
    embedding = task(strategy, tiny, [reference])
    straight = segment(tiny, embedding, reference)
    image = nibabel.Nifti1Image(reference.image, reference.affine)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt("PSL")
        )
    )
    labels = segment(tiny, embedding, Case(np.asarray(turned.dataobj), turned.affine))
    back = nibabel.as_closest_canonical(nibabel.Nifti1Image(labels.astype(np.int32), turned.affine))
    assert (np.asarray(back.dataobj) == straight).mean() > 0.999


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
def test_an_empty_reference_is_refused(strategy, tiny):
    with pytest.raises(InputError, match="at least one class"):
        task(strategy, tiny, [case_of(np.zeros((8, 8, 8), np.int32))])


def same(first, second, atol=1e-5) -> bool:
    return all(
        torch.allclose(getattr(first.task, f.name), getattr(second.task, f.name), rtol=atol, atol=atol)
        for f in fields(first.task)
    )


@pytest.fixture
def references(reference) -> list[Case]:
    """Three, the first without class 40, the second without class 7."""
    second = ball(centre=(10, 9, 10)).astype(np.int32) * 40
    first = ball(centre=(12, 9, 11)).astype(np.int32) * 7
    return [case_of(first, name="first"), case_of(second, name="second"), reference]


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
def test_a_task_file_keeps_every_bit(strategy, tiny, references, tmp_path):
    made = task(strategy, tiny, references[-1:] if strategy == "one_shot" else references, steps=1)
    save_task(tmp_path / "a.task.safetensors", made, "weights", ())
    kept = load_task(tmp_path / "a.task.safetensors", tiny, "weights")
    assert same(made, kept, atol=0) and len(made.references) == len(kept.references)
    assert len(made.overviews) == len(kept.overviews)
    assert all(same(m, k, atol=0) for m, k in zip(made.overviews, kept.overviews, strict=True))
    assert (segment(tiny, made, references[2]) == segment(tiny, kept, references[2])).all()


def test_an_ensemble_of_one_is_one_shot(tiny, reference):
    one, ensemble = (task(name, tiny, [reference]) for name in ("one_shot", "ensemble"))
    assert same(one, ensemble, atol=0)
    assert one.spacing_mm == ensemble.spacing_mm


def test_an_ensemble_of_the_same_reference_decodes_as_one(tiny, reference):
    one, twice = task("one_shot", tiny, [reference]), task("ensemble", tiny, [reference, reference])
    assert torch.allclose(one.task.tokens, twice.task.tokens, atol=1e-5)
    labels = [segment(tiny, embedding, reference) for embedding in (one, twice)]
    assert (labels[0] == labels[1]).mean() > 0.999


def test_the_order_of_references_does_not_matter(tiny, references):
    there, back = (task("ensemble", tiny, r) for r in (references, references[::-1]))
    assert there.values == back.values == (7, 40)
    for part in ("tokens", "prototypes", "location"):
        assert torch.allclose(getattr(there.task, part), getattr(back.task, part), atol=1e-5), part
    labels = [segment(tiny, embedding, references[2]) for embedding in (there, back)]
    assert (labels[0] == labels[1]).mean() > 0.999


def test_a_class_is_averaged_over_the_references_that_have_it(tiny, references):
    spacing_mm, scheme = shared_scale(tiny, references)
    each = [encode_at(tiny, r, spacing_mm, scheme, levels=True) for r in references]
    joined = task("ensemble", tiny, references)
    expected = (each[0].task.tokens[:, 0] + each[2].task.tokens[:, 0]) / 2
    assert torch.allclose(joined.task.tokens[:, 0], expected.half().float(), atol=1e-5)
    expected = (each[1].task.tokens[:, 0] + each[2].task.tokens[:, 1]) / 2
    assert torch.allclose(joined.task.tokens[:, 1], expected.half().float(), atol=1e-5)
    query = tiny.encode_image(torch.randn(1, 1, 24, 24, 24))
    assert torch.isfinite(tiny.decode(query, joined.task, torch.tensor([[[-1.0] * 3, [1.0] * 3]]))).all()


@torch.inference_mode()
def test_a_reference_that_lacks_a_class_says_nothing_of_it(tiny, references):
    """The memory of a class comes from the references that have it, as if the others were not there."""
    with_both = context_ensemble([encode_at(tiny, r, 1.0, "percentile", levels=False) for r in references[1:]])
    query, box = tiny.encode_image(torch.randn(1, 1, 24, 24, 24)), torch.tensor([[[-1.0] * 3, [1.0] * 3]])
    keys = tiny.task_encoder.memory_keys(query.up[1], box)
    coarse = tuple(query.up[1].shape[2:])
    evidence = tiny.mask_decoder.evidence
    alone = encode_at(tiny, references[2], 1.0, "percentile", levels=False).task
    joined = evidence.propagate(with_both.task, keys, coarse, (12, 12, 12))[:, 0]  # class 7: the last reference's
    single = evidence.propagate(alone, keys, coarse, (12, 12, 12))[:, 0]
    assert torch.allclose(joined, single, atol=0.02)


def test_retrieval_from_a_pool_of_one_is_one_shot(tiny, reference):
    one = task("one_shot", tiny, [reference])
    for name in ("retrieval", "image_retrieval"):
        assert same(one, task(name, tiny, [reference]), atol=0)


def test_image_retrieval_takes_the_reference_that_is_the_query(tiny, references):
    """Top 1 of a pool that holds the query's own image is that image."""
    context = Context(tiny, references, options=Options(top_k=1))
    for reference in references:
        chosen = STRATEGIES["image_retrieval"](context)(reference)
        assert all(note.startswith(reference.name) for note in chosen.notes.values())


def test_retrieval_says_what_it_chose_and_why(tiny, references):
    chosen = STRATEGIES["retrieval"](Context(tiny, references, options=Options(top_k=1)))(references[2])
    assert set(chosen.notes) == set(chosen.embedding.names) == {"class 7", "class 40"}
    names = [r.name for r in references]
    for note in chosen.notes.values():
        assert note.split(" (")[0] in names or note.startswith("not found by the first pass: all 2 references")


def test_retrieval_falls_back_to_all_references_where_nothing_is_found(tiny, references, monkeypatch):
    retrieval = importlib.import_module("iris_core.strategies.retrieval")
    monkeypatch.setattr(retrieval, "segment", lambda model, embedding, query: np.zeros(query.image.shape, np.int32))
    chosen = STRATEGIES["retrieval"](Context(tiny, references))(references[0])
    assert all("not found" in note for note in chosen.notes.values())
    assert same(chosen.embedding, task("ensemble", tiny, references), atol=1e-5)


def test_tuning_with_no_steps_is_its_start(tiny, references):
    for some in ([references[2]], references):
        start = task("one_shot" if len(some) == 1 else "ensemble", tiny, some)
        assert same(start, task("tuning", tiny, some, steps=0), atol=0)


def test_tuning_lowers_the_loss_on_its_reference_and_moves_nothing_else(tiny, reference):
    from iris_core.strategies.tuning import _lessons, _loss

    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    start, tuned = task("one_shot", tiny, [reference]), task("tuning", tiny, [reference], steps=40)
    context = Context(tiny, [reference])
    lessons = _lessons(context, start)
    with torch.no_grad():
        assert _loss(context, tuned.task, lessons) < _loss(context, start.task, lessons) - 0.01
    assert torch.equal(start.task.memory_keys, tuned.task.memory_keys)
    assert all(torch.equal(before[name], value) for name, value in tiny.state_dict().items())


def test_several_references_tell_how_far_to_believe_registration_and_head(tiny, references):
    """What is fitted is right more often where each reference is segmented from the others; vectors stay."""
    from iris_core.strategies.references import encode_all
    from iris_core.strategies.tuning import _answered

    start, tuned = task("ensemble", tiny, references), task("tuning", tiny, references, steps=15)
    assert torch.equal(start.task.tokens, tuned.task.tokens)
    assert not torch.equal(start.task.balance, tuned.task.balance)
    assert torch.equal(tuned.task.balance, tuned.detail.task.balance)
    context = Context(tiny, references)
    windows = [w for i in range(len(references)) for w in _answered(context, start, encode_all(context), i)]

    def loss(balance):
        of = [balance[:, w.classes, :, None, None, None].unbind(2) for w in windows]
        logits = [b[0] * w.registration + b[1] * w.head + b[2] for b, w in zip(of, windows, strict=True)]
        return sum(segmentation_loss(x, w.masks) for x, w in zip(logits, windows, strict=True))

    assert loss(tuned.task.balance) < loss(start.task.balance) - 0.01


def test_the_memory_bank_decodes_what_it_holds(tiny, reference):
    shown = task("one_shot", tiny, [reference])
    bank = MemoryBank()
    bank.update(["D/a", "D/b"], shown.task)
    training = {"datasets": {"D": {"classes": {"a": shown.spacing_mm, "b": shown.spacing_mm}, "scheme": shown.scheme}}}
    known = STRATEGIES["memory_bank"](Context(tiny, classes=("D/b", "D/a"), bank=bank, training=training))
    embedding = known(reference).embedding
    assert embedding.names == ("D/b", "D/a") and embedding.values == (1, 2)
    bare = replace(shown, task=shown.task.bare(), overviews=(), detail=None, references=())
    direct, through = segment(tiny, bare, reference), segment(tiny, embedding, reference)
    renamed = np.select([through == 2, through == 1], [7, 40], 0)
    assert (direct == renamed).mean() > 0.999


def test_the_memory_bank_refuses_what_it_does_not_know(tiny):
    for classes in ((), ("D/a",)):
        with pytest.raises(InputError, match="iris classes"):
            STRATEGIES["memory_bank"](Context(tiny, classes=classes))


@pytest.mark.parametrize("strategy", WITH_REFERENCES)
def test_a_strategy_without_references_is_refused(strategy, tiny):
    with pytest.raises(InputError, match="reference"):
        STRATEGIES[strategy](Context(tiny))


def test_references_that_contradict_each_other_are_refused(reference):
    one = TaskEmbedding(Task.compact(*[torch.zeros(1, 1, 1)] * 3), (1,), ("liver",), 1.0, "ct")
    for other in (replace(one, values=(2,)), replace(one, names=("spleen",)), replace(one, scheme="percentile")):
        with pytest.raises(InputError, match="must"):
            context_ensemble([one, other])


def test_a_mask_larger_than_a_window_is_encoded_in_windows(tiny):
    labels = np.zeros((80, 20, 20), np.int32)
    labels[5:75, 5:15, 5:15] = 1
    embedding = task("one_shot", tiny, [case_of(labels, (1.5, 1.5, 1.5))], "paper")
    assert embedding.task.memory_keys.shape[1] == embedding.task.memory_masks.shape[2] > 0
    assert embedding.task.location[0, 0, 0] == pytest.approx(1.0)
    assert abs(float(embedding.task.location[0, 0, 1])) < 0.05  # the mask is centred along x


def test_a_task_of_a_ct_takes_an_mr_by_its_own_percentiles(tiny, reference):
    """Clipped to Hounsfield units an MR would lose everything brighter than 500."""
    embedding = task("one_shot", tiny, [reference])
    query = replace(reference, image=reference.image * 10 + 1000)
    by_percentile = segment(tiny, replace(embedding, scheme="percentile"), query)
    assert (segment(tiny, replace(embedding, scheme="ct"), query) == by_percentile).all()


@pytest.mark.parametrize("strategy", [name for name in WITH_REFERENCES if name != "one_shot"])
def test_references_that_give_a_value_two_names_are_refused(strategy, tiny, reference):
    other = replace(reference, classes=tuple(replace(c, name=f"other {c.value}") for c in reference.classes))
    with pytest.raises(InputError, match="a label value of its own"):
        task(strategy, tiny, [reference, other], top_k=1, steps=0)
