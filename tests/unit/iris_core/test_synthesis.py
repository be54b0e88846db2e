"""Synthetic episodes: reference and query show the same structures, on grids and in boxes that fit."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import ball

from iris_core.data.framing import draw_window
from iris_core.data.painting import Contrast, artefacts, blur, octaves, paint
from iris_core.data.synthesis import PARTS, halved, shapes, supervoxels, synthetic_episode
from iris_core.data.warping import Anatomy, sample_window
from iris_core.geometry import WorkingGrid
from iris_core.model.iris import PRESETS

TINY = PRESETS["tiny"]


def anatomy(image: bool) -> Anatomy:
    labels = 1 + ball((30, 28, 26), (14, 13, 12), 9).astype(np.int32)
    labels[ball((30, 28, 26), (14, 13, 12), 4)] = 3
    return Anatomy(labels, (1.0, 1.2, 2.0), labels.astype(np.float32) if image else None)


@pytest.mark.parametrize("image", [False, True])
def test_an_episode_has_what_it_promises(image):
    made = [synthetic_episode(np.random.default_rng(i), *(2 * [anatomy(image)]), TINY) for i in range(30)]
    made = [pair for pair in made if pair]
    assert len(made) > 20
    for reference, query in made:
        assert reference.masks.any((1, 2, 3)).all()
        assert len(reference.masks) == len(query.masks)
        for view in (reference, query):
            assert view.image.shape == view.masks.shape[1:]
            assert all(n % TINY.multiple == 0 for n in view.image.shape)
            assert np.isfinite(view.image).all()
            assert (view.box[1] > view.box[0]).all()


def test_the_same_numbers_give_the_same_episode():
    first, second = (synthetic_episode(np.random.default_rng(3), *(2 * [anatomy(False)]), TINY) for _ in range(2))
    assert all((a.image == b.image).all() for a, b in zip(first, second, strict=True))


def test_without_deformation_a_window_is_the_anatomy():
    whole = anatomy(True)
    grid = WorkingGrid(whole.labels.shape, whole.spacing_mm, 1.0)
    rng = np.random.default_rng(0)
    window = draw_window(rng, grid, whole.labels == 3, 64, TINY, query=False)
    (image, mask), outside = sample_window(rng, whole, window, 0, np.array([1, 2, 3]), np.eye(3)[:, 2:])
    assert (~outside).sum() == pytest.approx(np.prod(grid.working_shape), rel=0.05)
    volume = (whole.labels == 3).sum() * np.prod(whole.spacing_mm)
    assert float(mask[~outside].sum()) == pytest.approx(volume, rel=0.05)
    assert image[mask > 0.5].mean() > image[(mask == 0) & ~outside].mean() + 1


@pytest.mark.parametrize("working_mm", [0.7, 1.4, 3.5])
def test_masks_are_fractions_and_grey_values_blend_alike(working_mm):
    whole = anatomy(False)
    grid = WorkingGrid(whole.labels.shape, whole.spacing_mm, working_mm)
    rng = np.random.default_rng(0)
    window = draw_window(rng, grid, whole.labels == 3, 64, TINY, query=False)
    greys = np.array([0.2, 0.5, 0.9])
    rows = np.column_stack([greys, np.eye(3)])
    (grey, *shares), _ = sample_window(rng, whole, window, 1.0, np.array([1, 2, 3]), rows)
    shares = torch.stack(shares)
    assert torch.allclose(shares.sum(0), torch.ones(()), atol=1e-5)
    assert torch.allclose(torch.tensordot(torch.tensor(greys).float(), shares, dims=1), grey, atol=1e-5)
    assert ((shares[2] > 0.1) & (shares[2] < 0.9)).any()


def test_a_deformation_keeps_structures_whole():
    from skimage.measure import label

    whole = anatomy(False)
    grid = WorkingGrid(whole.labels.shape, whole.spacing_mm, 1.0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        window = draw_window(rng, grid, whole.labels == 3, 64, TINY, query=False)
        (mask,), _ = sample_window(rng, whole, window, 1.0, np.array([1, 2, 3]), np.eye(3)[:, 2:])
        assert label((mask > 0.5).numpy()).max() <= 1  # nothing folds, nothing tears


def test_halves_are_the_two_ends():
    first, second = halved([anatomy(False), anatomy(False)], 3, 0, 9)
    assert np.argwhere(first.labels == 3)[:, 0].max() < np.argwhere(first.labels == 9)[:, 0].min()
    assert (first.labels == second.labels).all()


def test_random_shapes_are_labels_on_a_painted_background():
    labels = shapes(np.random.default_rng(0), 32).labels
    assert labels.shape == (32, 32, 32)
    assert (labels > PARTS).any() and ((labels > 1) & (labels < PARTS)).any()


def test_tissues_are_painted_in_their_grey_and_nothing_beyond_the_field_of_view():
    rng = np.random.default_rng(0)
    labels = torch.zeros(16, 16, 16, dtype=torch.long)
    labels[4:], labels[10:] = 1, 7
    contrast = Contrast(np.array([0, 1, 7]), np.array([0.5, 0.2, 0.8]), np.zeros(3), np.zeros(3))
    image = paint(rng, labels, contrast)
    assert image[12:].mean() == pytest.approx(0.8, abs=0.15)
    image = artefacts(rng, image, labels == 0)
    assert (image[labels == 0] == 0).all()
    assert image[12:].mean() > image[5:9].mean()


@pytest.mark.parametrize("shape", [(64, 64, 64), (96, 16, 8), (8, 5, 1)])
def test_texture_has_coarse_detail_and_fine(shape):
    noise = octaves(np.random.default_rng(0), shape)
    assert noise.shape == shape
    assert float(noise.mean()) == pytest.approx(0, abs=1e-4)
    assert float(noise.std()) == pytest.approx(1, abs=1e-3)
    if min(shape) == 64:
        smooth = [float(blur(noise, (s, s, s)).std()) for s in (1, 2, 4, 8)]
        assert all(b < 0.95 * a for a, b in pairwise(smooth))  # something goes at every scale
        assert smooth[2] > 0.05


def test_blur_keeps_the_mean():
    volume = torch.rand(12, 1, 20)
    assert blur(volume, (1.0, 1.0, 2.0)).mean() == pytest.approx(float(volume.mean()), abs=0.05)


def test_supervoxels_follow_edges():
    image = ball((30, 28, 26), (14, 13, 12), 9).astype(np.float32) * 4 - 2
    pieces = supervoxels(np.random.default_rng(0), image, (1.0, 1.0, 1.0))
    assert pieces.shape == image.shape
    inside = [(image[pieces == v] > 0).mean() for v in np.unique(pieces)]
    assert np.mean([min(m, 1 - m) for m in inside]) < 0.1


def test_supervoxels_of_a_large_scan_lie_on_its_grid():
    image = np.random.default_rng(0).normal(size=(200, 180, 31)).astype(np.float32)
    assert supervoxels(np.random.default_rng(0), image, (0.5, 0.5, 3.0)).shape == image.shape
