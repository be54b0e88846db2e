"""The context test tells a model that looks from one that does not; the ablation takes from T what it says."""

from typing import get_args

import numpy as np
import pytest
import torch
from conftest import ball

from app.commands.train import Part
from iris_core.case import Case, plain_classes
from iris_core.evaluation.ablation import Ablated, parts_of
from iris_core.evaluation.context import (
    MOVED,
    OTHER,
    RIGHT,
    SHUFFLED,
    Trial,
    _references,
    context_test,
    summarise_context,
    verdict,
)
from iris_core.model.iris import PARTS, without
from iris_core.strategies import Context
from iris_core.strategies.references import encode_at


@pytest.fixture
def cases() -> dict[str, Case]:
    rng = np.random.default_rng(0)
    made = {}
    for i in range(3):
        labels = ball(centre=(8, 9 + i, 10), radius=5).astype(np.int32)
        labels[ball(centre=(17, 9, 10), radius=4)] = 2
        image = (labels * 50 + rng.normal(0, 5, labels.shape)).astype(np.float32)
        made[f"case{i}"] = Case(image, np.eye(4), labels, plain_classes(labels), name=f"case{i}")
    return made


def test_wrong_references_are_wrong_in_the_way_they_say(cases):
    shown, stranger, _ = cases.values()
    asked, other = shown.classes
    made = {
        row: (case, instead) for row, case, instead in _references(shown, stranger, asked, np.random.default_rng(0))
    }
    assert list(made) == [RIGHT, OTHER, MOVED, SHUFFLED]
    masks = {row: case.labels == 1 for row, (case, _) in made.items()}
    assert (masks[RIGHT] == (shown.labels == 1)).all()
    assert (masks[OTHER] == (shown.labels == 2)).all() and made[OTHER][1] == other
    assert masks[MOVED].sum() == masks[RIGHT].sum() and not (masks[MOVED] & masks[RIGHT]).any()
    assert masks[SHUFFLED].sum() == (stranger.labels == 1).sum()
    assert made[SHUFFLED][0].image is stranger.image
    assert (masks[SHUFFLED] & (stranger.labels == 1)).sum() < 0.5 * masks[SHUFFLED].sum()


def test_a_context_test_asks_every_structure_of_every_pair(tiny, cases):
    patients = {name: name for name in cases}
    pairs = [("case0", "case1"), ("case1", "case2")]
    trials = [
        t for some in context_test(Context(tiny), cases.__getitem__, pairs, patients, list(cases), 0) for t in some
    ]
    assert len(trials) == 2 * 2 * 4
    assert {t.reference for t in trials if t.row == SHUFFLED} == {"case2", "case0"}  # neither reference nor query
    rows = {row["reference_shows"]: row for row in summarise_context(trials)}
    assert [row["n"] for row in rows.values()] == [4] * 4
    assert set(rows[RIGHT]["per_class"]) == {"class 1", "class 2"}
    assert "mean_dice_shown" in rows[OTHER] and "mean_dice_shown" not in rows[RIGHT]


def test_the_verdict_follows_the_rows():
    def said(right, wrong):
        return verdict(summarise_context([Trial(RIGHT, "q", "r", "c", right), Trial(SHUFFLED, "q", "r", "c", wrong)]))

    assert said(0.8, 0.05).startswith("it looks at its reference:")
    assert said(0.8, 0.4).startswith("it looks at its reference in part")
    assert said(0.8, 0.78).startswith("it ignores its reference")
    assert said(0.02, 0.02).startswith("no verdict")
    assert said(0.8, None).startswith("it looks at its reference:")


@pytest.mark.parametrize("part", PARTS)
def test_an_ablated_model_lacks_its_part_and_answers_otherwise(part, tiny, cases):
    case = cases["case0"]
    model = Ablated(tiny, part)
    shown, lacking = (encode_at(m, case, 1.0, "percentile", False) for m in (tiny, model))
    assert len(shown.references) == 1
    assert len(lacking.references) == (part != "registration")
    full, cut = shown.task, lacking.task
    empty = {
        "foreground": cut.tokens[:, :, :1],
        "query_tokens": cut.tokens[:, :, 1:],
        "prototypes": cut.prototypes,
        "location_prior": cut.location,
        "spatial_memory": cut.memory_keys,
    }.get(part, torch.zeros(1))
    assert not empty.any()
    if part != "high_resolution":  # nothing else is touched
        kept = full.tokens[:, :, 1:] if part == "foreground" else full.tokens[:, :, :1]
        assert torch.equal(cut.tokens[:, :, 1:] if part == "foreground" else cut.tokens[:, :, :1], kept)
    box = torch.tensor([[[-1.0] * 3, [1.0] * 3]])
    with torch.inference_mode():
        features = tiny.encode_image(torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)))
        same = torch.allclose(tiny.decode(features, full, box), model.decode(features, cut, box), atol=1e-4)
        assert same == (part == "registration")  # whose part is what is carried over


def test_a_model_can_lose_only_what_it_has(tiny):
    assert get_args(Part) == PARTS == tuple(parts_of(tiny.config))
    assert "foreground" not in parts_of(without(tiny.config, "query_tokens"))
