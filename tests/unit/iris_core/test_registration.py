"""Registration: finds a known warp in another contrast, knows where the reference ends, carries masks over."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import smooth_noise

from iris_core.embeddings import combine
from iris_core.model import registration
from iris_core.model.mask_decoder import carry_over
from iris_core.model.registration import describe, described, register, sample
from iris_core.model.task_encoder import Task

SHAPE = (48, 64, 48)
WHOLE = torch.tensor([[[-1.0] * 3, [1.0] * 3]])


@pytest.fixture(scope="module")
def anatomy():
    """A piecewise constant image larger than a window: 8 tissues."""
    return (smooth_noise([n + 32 for n in SHAPE], 10, 0) * 3).round()


def cut(volume, shift=(0, 0, 0)):
    return volume[(..., *(slice(16 + s, 16 + s + n) for s, n in zip(shift, SHAPE, strict=True)))]


def seen(image, box=WHOLE):
    return described(describe(image), tuple(image.shape[2:]), box)


def places(shape, shift=(0, 0, 0)):
    lines = [(torch.arange(n) + 0.5 + s) / n * 2 - 1 for n, s in zip(shape, shift, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]


def apart(found, shift):
    """Mean distance in voxels, away from the border."""
    wrong = (found - places(SHAPE, shift)) * torch.tensor(SHAPE)[:, None, None, None] / 2
    return float(wrong.norm(dim=1)[..., 8:-8, 8:-8, 8:-8].mean())


def test_a_shift_is_found_in_any_contrast(anatomy):
    shift = (5, -4, 3)
    for repaint in (lambda x: x, lambda x: -x, lambda x: (x * 1.7).cos() * 40 + 7):
        found, certainty = register(seen(repaint(cut(anatomy, shift))), seen(cut(anatomy)), SHAPE)
        assert apart(found, shift) < 1.0
        assert certainty[..., 8:-8, 8:-8, 8:-8].mean() > 0.5


@pytest.mark.parametrize(("scale", "shift"), [(1.3, (9, -8, 6)), (1.0, (14, -12, 10))])
def test_what_lies_far_off_is_found_by_an_affine_map(scale, shift, monkeypatch):
    n = 64
    tissues = (smooth_noise([2 * n] * 3, 16 if scale == 1 else 12, 0) * 3).round()
    here = places([n] * 3) * n / 2
    there = here * scale + torch.tensor(shift)[:, None, None, None]
    query, reference = (seen(sample(tissues, place / n)) for place in (there, here))
    inside = (there.abs() < 0.9 * n / 2).all(1)

    def apart():
        found, _ = register(query, reference, (n,) * 3)
        return float((found * n / 2 - there).norm(dim=1)[inside].mean())

    assert apart() < 0.5
    monkeypatch.setattr(registration, "BETTER", 0.0)  # no affine map is ever taken
    assert apart() > 2


def test_what_shows_something_else_is_uncertain(anatomy):
    other = (smooth_noise(SHAPE, 10, 5) * 3).round()
    _, same = register(seen(cut(anatomy)), seen(cut(anatomy)), SHAPE)
    _, another = register(seen(other), seen(cut(anatomy)), SHAPE)
    assert another.mean() < 0.6 * same.mean()


def test_windows_far_apart_are_found_by_their_fields_of_view(anatomy):
    """The reference's window is the left of the scan, the query's the right: only the boxes tell."""
    shift = (14, 0, 0)
    right = torch.tensor([[[-1 + 28 / 48, -1.0, -1.0], [1 + 28 / 48, 1.0, 1.0]]])
    found, _ = register(seen(cut(anatomy, shift), right), seen(cut(anatomy)), SHAPE)
    wrong = (found - places(SHAPE, shift)) * torch.tensor(SHAPE)[:, None, None, None] / 2
    assert wrong.norm(dim=1)[..., 4:28, 8:-8, 8:-8].mean() < 1.0


def test_outside_of_the_field_of_view_nothing_is_certain(anatomy):
    beyond = torch.tensor([[[-1.0, -1.0, -1.0], [3.0, 1.0, 1.0]]])  # the window's second half is no scan
    image = cut(anatomy).clone()
    image[..., 24:, :, :] = 0
    _, certainty = register(seen(image, beyond), seen(cut(anatomy)), SHAPE)
    assert certainty[..., :16, :, :].mean() > 3 * certainty[..., 32:, :, :].mean()


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 48, 8), (128, 16, 32)])
def test_any_window_will_do(shape, anatomy):
    image = smooth_noise(shape, 4, 1)
    found, certainty = register(seen(image), seen(cut(anatomy)), tuple(n // 2 for n in shape))
    assert torch.isfinite(found).all() and found.shape[2:] == certainty.shape[2:] == tuple(n // 2 for n in shape)
    flat, _ = register(seen(torch.zeros(1, 1, *shape)), seen(cut(anatomy)), shape)
    assert torch.isfinite(flat).all()


@pytest.fixture(scope="module")
def two_classes(anatomy):
    """A task of two classes with one window to register, and its masks."""
    masks = torch.cat([cut(anatomy) == 0, cut(anatomy) == 1], 1).float()
    shown = seen(cut(anatomy))
    described = F.interpolate(torch.cat([shown.descriptors, shown.valid], 1), size=(32, 32, 32), mode="trilinear")
    task = replace(
        Task.compact(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 0, 2, 8), torch.zeros(1, 2, 10)),
        anatomy=described[:, None],
        frames=torch.cat([shown.edges[:, None], shown.box], 1)[:, None],
        atlas=F.interpolate(masks, size=(32, 32, 32), mode="trilinear")[:, :, None],
    )
    return task, masks


def test_masks_are_carried_to_where_they_belong(anatomy, two_classes):
    task, _ = two_classes
    shift = (4, 4, -4)
    query = cut(anatomy, shift)
    carried, certainty = carry_over(task, seen(-query), SHAPE).unbind(2)
    inner = (..., *[slice(10, -10)] * 3)
    for k, value in enumerate((0, 1)):
        there = (query == value).float()[:, 0][inner]
        found = carried[:, k][inner]
        assert 2 * (found * there).sum() / (found.sum() + there.sum()) > 0.7
    assert torch.equal(certainty[:, 0], certainty[:, 1])


def test_a_window_counts_for_the_classes_it_shows(anatomy, two_classes):
    task, _ = two_classes
    query = seen(cut(anatomy, (2, 0, 0)))
    alone = carry_over(task, query, SHAPE)
    twice = combine([task, task], torch.ones(2, 2))
    assert torch.allclose(carry_over(twice, query, SHAPE), alone, atol=1e-4)
    silent = replace(task, atlas=torch.cat([task.atlas[:, :1], torch.full_like(task.atlas[:, 1:], -1)], 1))
    mixed = carry_over(combine([task, silent], torch.tensor([[1.0, 1.0], [1.0, 0.0]])), query, SHAPE)
    assert torch.allclose(mixed, alone, atol=1e-4)
    assert not carry_over(task.without_windows(), query, SHAPE).any()
    assert torch.equal(carry_over(silent, query, SHAPE)[:, 1], torch.zeros_like(alone[:, 1]))
