"""Lesions: seen where their mask is, in reference and query, and nowhere else."""

import numpy as np
import pytest
import torch
from conftest import ball, smooth_noise

from iris_core.data.lesions import VISIBLE, add_lesions, draw_looks
from iris_core.data.synthesis import synthetic_episode
from iris_core.data.warping import Anatomy
from iris_core.model.iris import PRESETS

SHAPE = (48, 44, 40)
BODY = torch.from_numpy(ball(SHAPE, (24, 22, 20), 18))


def scan(seed: int) -> torch.Tensor:
    """A body of some tissues in dark air."""
    return torch.where(BODY, 1 + 0.5 * smooth_noise(SHAPE, 4, seed)[0, 0], -2.0)


def painted(seed: int):
    rng = np.random.default_rng(seed)
    looks = draw_looks(rng, max(SHAPE))
    return looks, *add_lesions(rng, scan(seed), BODY, looks)


def test_the_image_changes_where_the_masks_are_and_close_by_alone():
    for seed in range(20):
        _, image, masks = painted(seed)
        assert torch.isfinite(image).all()
        assert masks.min() >= 0
        assert masks.sum(0).max() <= 1 + 1e-5
        changed = (image - scan(seed)).abs() > 1e-3
        assert changed[masks.amax(0) > 0.5].float().mean() > 0.9
        near = torch.nn.functional.max_pool3d(masks.amax(0)[None, None], 9, 1, 4)[0, 0] > 0
        assert not changed[~near].any()


def test_lesions_stand_out_from_the_tissue_around_them():
    found = []
    for seed in range(40):
        looks, image, masks = painted(seed)
        everything = masks.amax(0)
        for look, mask in zip(looks, masks, strict=True):
            close = torch.nn.functional.max_pool3d(mask[None, None], 9, 1, 4)[0, 0] > 0.5
            around = image[close & (everything == 0) & BODY]
            if look.core or (mask > 0.5).sum() < 8 or len(around) < 8:
                continue
            found.append(float((image[mask > 0.5].mean() - around.mean()) / around.std()) * np.sign(look.shift))
    assert len(found) > 20
    assert np.mean(np.array(found) > 0.7) > 0.9


def test_looks_can_be_told_apart():
    for seed in range(20):
        shifts = np.sort([look.shift for look in draw_looks(np.random.default_rng(seed), 64)])
        assert (np.abs(shifts) >= VISIBLE).all()
        assert (np.diff(shifts) > VISIBLE).all()


def test_nothing_is_painted_where_there_is_no_tissue():
    looks = draw_looks(np.random.default_rng(0), 16)
    image = torch.randn(16, 16, 16)
    result, masks = add_lesions(np.random.default_rng(0), image, torch.zeros(image.shape, dtype=torch.bool), looks)
    assert (result == image).all()
    assert not masks.any()


@pytest.mark.parametrize("two", [False, True])
def test_an_episode_shows_lesions_on_both_sides_at_other_places(two):
    first = Anatomy(np.ones(SHAPE, np.int32), (1.0, 1.2, 2.0), scan(0).numpy())
    second = Anatomy(np.ones(SHAPE, np.int32), (1.5, 1.0, 1.0), scan(1).numpy()) if two else first
    made = [synthetic_episode(np.random.default_rng(i), first, second, PRESETS["tiny"]) for i in range(30)]
    again = synthetic_episode(np.random.default_rng(7), first, second, PRESETS["tiny"])
    assert all((a.image == b.image).all() for a, b in zip(made[7], again, strict=True))
    made = [pair for pair in made if pair]
    assert len(made) > 20
    assert {len(reference.masks) for reference, _ in made} == {1, 2}
    for reference, query in made:
        assert reference.masks.shape[0] == query.masks.shape[0]
        for view in (reference, query):
            assert np.isfinite(view.image).all()
            assert view.image.shape == view.masks.shape[1:]
            assert (view.masks.sum((1, 2, 3)) >= 1).all()
        assert reference.masks.shape != query.masks.shape or (reference.masks != query.masks).any()
