"""Locating: what a coarse pass is sure of narrows the search; where it is not, or was wrong, everything is searched."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ball

from iris_core import inference
from iris_core.case import Case, plain_classes
from iris_core.geometry import Scores
from iris_core.strategies import STRATEGIES, Context

SHAPE = (120, 100, 90)


@pytest.fixture(scope="module")
def embedding(tiny):
    labels = ball((40, 40, 40), (20, 20, 20), 8).astype(np.int32)
    image = (labels * 50 + np.random.default_rng(0).normal(0, 5, labels.shape)).astype(np.float32)
    reference = Case(image, np.eye(4), labels, plain_classes(labels))
    return replace(STRATEGIES["one_shot"](Context(tiny, [reference]))(reference).embedding, detail=None)


@pytest.fixture
def passes(monkeypatch, embedding):
    """Replaces the network by one that finds a ball at ``where[spacing]``, and registration by one that finds it at
    ``where["registered"]``; records (spacing or "registered", sure) of each pass."""

    def ball_at(which, grid):
        shape = grid.working_shape
        found, centre = torch.full((1, *shape), -5.0), where[which]
        if centre is not None:
            index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * grid.working_mm
            found[0][torch.from_numpy(np.linalg.norm(index - centre, axis=-1) < 8)] = 5.0
        return found

    where: dict[float | str, np.ndarray | None] = {"registered": None}
    seen = []

    def believed(model, grid, registered, k):
        seen.append(("registered", None))
        return ball_at("registered", grid)

    def logits(model, task, image, grid, device, registered, progress=None, region=None):
        which = round(grid.working_mm / embedding.spacing_mm)
        found = ball_at(which, grid)
        if region is not None:
            found = found.masked_fill(~region.on(grid, (0, 0, 0), grid.working_shape), inference.ABSENT)
        seen.append((which, None if region is None else region.sure.tolist()))
        return Scores(grid, (0, 0, 0), found)

    monkeypatch.setattr(inference, "_believed", believed)
    monkeypatch.setattr(inference, "window_logits", logits)
    return where, seen


def segment(tiny, embedding, **options) -> np.ndarray:
    return inference.segment(tiny, embedding, Case(np.random.default_rng(1).normal(size=SHAPE), np.eye(4)), **options)


@pytest.mark.parametrize("by", ["registered", 2])
def test_a_sure_coarse_pass_narrows_the_search(tiny, embedding, passes, by):
    """What registration is sure of, the model is not asked for."""
    where, seen = passes
    where |= {by: np.array([60, 50, 45]), 1: np.array([60, 50, 45])}
    labels = segment(tiny, embedding)
    coarse = [("registered", None)] if by == "registered" else [("registered", None), (2, None)]
    assert seen == [*coarse, (1, [True])]
    assert labels[60, 50, 45] == 1


def test_a_find_far_from_where_it_was_located_is_not_believed(tiny, embedding, passes):
    """The fine pass finds nothing near the coarse pass's place: the whole query is searched once more."""
    where, seen = passes
    where |= {2: np.array([20, 20, 20]), 1: np.array([100, 80, 70])}
    labels = segment(tiny, embedding)
    assert seen == [("registered", None), (2, None), (1, [True]), (1, [False])]
    assert labels[100, 80, 70] == 1


def test_an_unsure_coarse_pass_leaves_the_whole_query(tiny, embedding, passes):
    where, seen = passes
    where |= {2: None, 1: np.array([100, 80, 70])}
    labels = segment(tiny, embedding)
    assert seen == [("registered", None), (2, None), (1, [False])]
    assert labels[100, 80, 70] == 1


def test_each_class_is_located_by_what_is_sure_of_it(tiny, embedding, monkeypatch):
    """Registration is sure of the first class, the model of both, elsewhere."""

    def at(grid, *places):
        found = torch.full((2, *grid.working_shape), -5.0)
        for place in places:
            found[place] = 5.0
        return found

    monkeypatch.setattr(inference, "_believed", lambda model, grid, *_: at(grid, (0, 10, 10, 10)))
    learnt = (0, 40, 30, 30), (1, 40, 30, 30)
    monkeypatch.setattr(
        inference, "window_logits", lambda model, task, image, grid, *_: Scores(grid, (0, 0, 0), at(grid, *learnt))
    )
    grid = inference.WorkingGrid(SHAPE, (1.0, 1.0, 1.0), embedding.spacing_mm)
    region = inference._locate(tiny, embedding, torch.zeros(SHAPE), grid, torch.device("cpu"), [])
    assert region.sure.tolist() == [True, True]
    assert region.allowed.values[:, 10, 10, 10].tolist() == [1, 0]
    assert region.allowed.values[:, 40, 30, 30].tolist() == [0, 1]


def test_locating_can_be_left_out(tiny, embedding, passes):
    where, seen = passes
    where |= {1: np.array([100, 80, 70])}
    segment(tiny, embedding, locate=False)
    segment(tiny, replace(embedding, overviews=()))
    assert seen == [(1, None), (1, None)]


def test_located_windows_are_fewer_and_lie_around_the_place(tiny, embedding):
    grid = inference.WorkingGrid(SHAPE, (1.0, 1.0, 1.0), embedding.spacing_mm)
    everywhere = inference.cover(tiny, grid)
    around = inference.cover(tiny, grid, (50, 40, 30), (70, 60, 50))
    assert len(around) < len(everywhere)
    for start, shape in around:
        assert all(a <= 50 for a in start) or all(s <= low for s, low in zip(start, (50, 40, 30), strict=True))
        assert all(s + n >= high for s, n, high in zip(start, shape, (70, 60, 50), strict=True))
