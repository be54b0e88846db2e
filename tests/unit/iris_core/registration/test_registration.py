"""Registration: finds a known warp in another contrast, knows where the reference ends, carries masks over."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import smooth_noise

from iris_core.registration import Scan, carry_over, prepare, register
from iris_core.registration.labelled import MOST, labelled
from iris_core.registration.lattice import Lattice

SHAPE = (48, 64, 48)
GRID = Lattice(SHAPE, 1.0)
CONTRASTS = {"alike": lambda x: x, "inverted": lambda x: -x, "other": lambda x: (x * 1.7).cos() * 40 + 7}


@pytest.fixture(scope="module")
def anatomy():
    """A piecewise constant image larger than a scan: 8 tissues."""
    return (smooth_noise([n + 48 for n in SHAPE], 10, 0) * 3).round()[0, 0]


def cut(volume, shift=(0, 0, 0)):
    return volume[tuple(slice(24 + s, 24 + s + n) for s, n in zip(shift, SHAPE, strict=True))]


def scan(image, view_mm=None):
    return Scan(image, (1.0, 1.0, 1.0), view_mm)


@pytest.fixture(scope="module")
def reference(anatomy):
    """Two tissues of the anatomy are its structures."""
    return prepare(scan(cut(anatomy)), [cut(anatomy) == 0, cut(anatomy) == 1])


def apart(found, shift):
    """Mean distance in voxels from where a shift leads, away from the border; and the mean certainty there."""
    places = GRID.places()
    there, certainty = found.at(places)
    inner = (..., *[slice(8, -8)] * 3)
    wrong = (there - places - torch.tensor(shift)[:, None, None, None]).norm(dim=1)
    return float(wrong[inner].mean()), float(certainty[inner].mean())


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("shift", [(5, -4, 3), (14, -12, 10)])
def test_a_shift_is_found_in_any_contrast(anatomy, reference, contrast, shift):
    distance, certainty = apart(register(scan(CONTRASTS[contrast](cut(anatomy, shift))), reference), shift)
    assert distance < 1.0
    assert certainty > 0.5


def test_what_shows_something_else_is_uncertain(anatomy, reference):
    other = (smooth_noise(SHAPE, 10, 5) * 3).round()[0, 0]
    _, same = apart(register(scan(cut(anatomy)), reference), (0, 0, 0))
    _, another = apart(register(scan(other), reference), (0, 0, 0))
    assert another < 0.6 * same


def test_a_place_to_begin_helps_where_little_is_shared(anatomy, reference):
    """The query's middle lies at the reference's end: half of it is to be seen there."""
    shift = (24, 20, 0)
    query = scan(cut(anatomy, shift))
    shared = (..., slice(0, 20), slice(0, 40), slice(8, -8))
    places = GRID.places()

    def distance(start):
        there, _ = register(query, reference, start).at(places)
        return float((there - places - torch.tensor(shift)[:, None, None, None]).norm(dim=1)[shared].mean())

    assert distance(torch.tensor(shift, dtype=torch.float32)) < 1.0


def test_outside_of_the_field_of_view_nothing_is_certain(anatomy, reference):
    image = cut(anatomy).clone()
    image[24:] = 0
    view = torch.tensor([[-24.0, -32.0, -24.0], [0.0, 32.0, 24.0]])  # the window's second half is no scan
    _, certainty = register(scan(image, view), reference).at(GRID.places())
    assert certainty[..., :16, :, :].mean() > 3 * certainty[..., 32:, :, :].mean()


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 8), (16, 48, 8), (200, 16, 3)])
@pytest.mark.parametrize("content", [smooth_noise, lambda shape, *_: torch.zeros(1, 1, *shape)])
def test_any_scan_will_do(shape, content, reference):
    image = content(shape, 4, 1)[0, 0]
    carried = carry_over([register(scan(image), reference)], Lattice(shape, 1.0))
    assert carried.masks.shape == (1, 2, *shape) and carried.certainty.shape == (1, 1, *shape)
    assert torch.isfinite(carried.masks).all() and torch.isfinite(carried.certainty).all()
    itself = prepare(scan(image), [torch.ones(shape, dtype=torch.bool)])
    assert torch.isfinite(carry_over([register(scan(image), itself)], GRID).masks).all()


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_masks_are_carried_to_where_they_belong(anatomy, reference, contrast):
    query = cut(anatomy, (4, 4, -4))
    carried = carry_over([register(scan(CONTRASTS[contrast](query)), reference)], GRID).masks
    inner = tuple([slice(10, -10)] * 3)
    for k in (0, 1):
        there, found = (query == k)[inner].float(), carried[0, k][inner]
        assert 2 * (found * there).sum() / (found.sum() + there.sum()) > 0.75


def test_a_small_structure_is_outlined_finer_than_the_whole(anatomy):
    """Around a structure that takes a small part of a large scan the cells are a third of the scan's."""
    whole = (smooth_noise([96] * 3, 6, 3) * 3).round()[0, 0]
    ball = Lattice((96,) * 3, 1.0).places()[0].norm(dim=0) < 8
    reference = prepare(Scan(whole, (2.0, 2.0, 2.0)), [ball])
    assert reference.near.lattice.cell_mm < 0.6 * reference.scales[0].lattice.cell_mm
    found = register(Scan(-whole, (2.0, 2.0, 2.0)), reference)
    assert len(found.fields) == 2
    carried = carry_over([found], Lattice((96,) * 3, 2.0)).masks[0, 0] > 0.5
    assert 2 * (carried & ball).sum() / (carried.sum() + ball.sum()) > 0.95


def test_a_reference_counts_for_the_classes_it_shows(anatomy, reference):
    query = scan(cut(anatomy, (2, 0, 0)))
    found = register(query, reference)
    alone = carry_over([found], GRID)
    twice = carry_over([found, found], GRID)
    assert torch.allclose(twice.masks, alone.masks, atol=1e-4)
    silent = replace(found, reference=reference.pick([0, None]))
    mixed = carry_over([found, silent], GRID)
    assert torch.allclose(mixed.masks, alone.masks, atol=1e-4)
    assert torch.allclose(mixed.certainty, alone.certainty.expand(-1, 2, -1, -1, -1), atol=1e-4)
    assert not carry_over([silent], GRID).masks[:, 1].any()


def test_a_field_is_smooth_enough_to_be_looked_up_at_every_other_place(anatomy, reference):
    found = register(scan(cut(anatomy, (3, -2, 4))), reference)
    exact, quick = (carry_over([found], GRID, step) for step in (1, 2))
    assert quick.certainty.shape[2:] == tuple(n // 2 for n in SHAPE)
    assert ((exact.masks > 0.5) == (quick.masks > 0.5)).float().mean() > 0.995


def test_classes_may_overlap_and_change_places(anatomy):
    inner, outer = cut(anatomy) == 0, cut(anatomy).abs() <= 1
    shown = prepare(scan(cut(anatomy)), [inner, outer])
    for k, mask in enumerate((inner, outer)):
        assert torch.allclose(shown.masks.at(GRID.places())[0, k], mask.float(), atol=1e-4)
    turned = shown.pick([1, 0])
    assert torch.equal(turned.masks.at(GRID.places())[:, 0], shown.masks.at(GRID.places())[:, 1])
    assert torch.equal(turned.pick([1, 0]).masks.sets, shown.masks.sets)


def test_what_is_one_voxel_thin_is_not_lost():
    """A shell and a tube, one voxel thick, on the same image."""
    whole = smooth_noise([64] * 3, 9, 3)[0, 0]
    places = Lattice((64,) * 3, 1.0).places()[0]
    shell = (places.norm(dim=0) - 20).abs() < 0.5
    tube = torch.zeros_like(shell)
    for x in range(8, 56):
        tube[x, 32 + round(8 * math.sin(x / 8)), 30] = True
    reference = prepare(Scan(whole, (1.0,) * 3), [shell, tube])
    carried = carry_over([register(Scan(whole, (1.0,) * 3), reference)], Lattice((64,) * 3, 1.0), 2).masks[0] > 0.5
    for k, mask in enumerate((shell, tube)):
        assert 2 * (carried[k] & mask).sum() / (carried[k].sum() + mask.sum()) >= 0.95


def test_in_a_large_scan_voxels_are_joined():
    half = torch.tensor([300.0] * 3)
    masks = labelled([torch.ones(600, 600, 600, dtype=torch.bool)], (1.0,) * 3, -half, half)
    assert 0.5 * MOST < masks.labels.numel() <= 1.1 * MOST
    assert (masks.at(Lattice((4, 4, 4), 100.0).places()) > 0.999).all()
