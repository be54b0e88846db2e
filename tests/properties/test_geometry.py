"""Geometry is sacred: every step's inverse restores, in every orientation."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from conftest import ball
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_core.case import Case, InputError
from iris_core.geometry import (
    Orientation,
    Scores,
    WorkingGrid,
    choose_spacing,
    labels_back,
    oriented,
    window_shape,
    window_starts,
)

ALL_48 = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


def affine_of(axes, flips, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel, (world, sign) in enumerate(zip(axes, flips, strict=True)):
        affine[world, voxel] = sign * spacing[voxel]
    affine[:3, 3] = (-7.5, 30, 4)
    return affine


def round_trip(case: Case, spacing_mm: float) -> np.ndarray:
    """Labels → working grid → back on the case's own grid."""
    labels, spacing = oriented(case, case.labels)
    grid = WorkingGrid(labels.shape, spacing, spacing_mm)
    values = tuple(int(v) for v in np.unique(labels) if v)
    one_hot = torch.from_numpy(np.stack([labels == v for v in values]).astype(np.float32))
    back = labels_back(Scores(grid, (0, 0, 0), grid.to_working(one_hot) - 0.5), values)
    return Orientation.of(case.affine).invert(back)


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(("axes", "flips"), ALL_48)
def test_round_trip_is_identical_at_native_spacing_in_all_48_orientations(axes, flips):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (9, 7, 8)) * 5  # gaps in the values, no structure: nothing forgives an error
    case = Case(np.zeros(labels.shape, np.float32), affine_of(axes, flips), labels)
    assert (round_trip(case, 1.0) == labels).all()


@pytest.mark.parametrize(("axes", "flips"), ALL_48)
def test_round_trip_keeps_a_smooth_structure_when_resampled(axes, flips):
    spacing = (1.0, 0.8, 1.3)
    labels = ball(spacing=spacing).astype(np.int32)
    case = Case(np.zeros(labels.shape, np.float32), affine_of(axes, flips, spacing), labels)
    assert dice(round_trip(case, 1.1) > 0, labels > 0) >= 0.97


def test_round_trip_of_an_oblique_and_a_thick_slice_volume():
    angle = 0.4
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = ball((40, 40, 40), (19, 20, 18), 12).astype(np.int32)
    thick = ball((64, 64, 12), (30, 31, 6), 24, (1, 1, 8)).astype(np.int32)
    for labels, matrix in ((oblique, affine), (thick, np.diag([1.0, 1.0, 8.0, 1.0]))):
        case = Case(np.zeros(labels.shape, np.float32), matrix, labels)
        assert (round_trip(case, 1.0) == labels).all() or matrix is not affine
        for spacing in (1.0, 1.5):
            assert dice(round_trip(case, spacing) > 0, labels > 0) >= 0.97


@pytest.mark.parametrize(("axes", "flips"), ALL_48)
def test_orientation_agrees_with_nibabel(axes, flips):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = affine_of(axes, flips, (0.7, 1.0, 2.0))
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.astype(np.int32), affine))
    assert (Orientation.of(affine).apply(array) == np.asarray(image.dataobj)).all()


@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    working=st.floats(0.5, 4),
)
@settings(max_examples=50, deadline=None)
def test_a_constant_stays_constant_on_any_grid(shape, spacing, working):
    grid = WorkingGrid(shape, spacing, working)
    there = grid.to_working(torch.ones(shape))
    assert tuple(there.shape) == grid.working_shape
    assert torch.allclose(there, torch.ones(1), atol=1e-5)
    assert (labels_back(Scores(grid, (0, 0, 0), there[None]), (7,)) == 7).all()


def test_a_coordinate_ramp_keeps_its_millimetres():
    grid = WorkingGrid((40, 30, 20), (1.0, 1.5, 3.0), 2.0)
    ramp = torch.arange(30.0)[None, :, None].expand(40, 30, 20) * 1.5  # mm along y
    there = grid.to_working(ramp)
    steps = there[5, 2:-2, 5].diff()
    assert torch.allclose(steps, torch.full_like(steps, 2.0), atol=0.05)  # the filter's centre moves by 0.02 mm
    assert abs(float(there.mean() - ramp.mean())) < 1e-3  # the same centre


@given(length=st.integers(1, 300), window=st.sampled_from([16, 32, 96]), multiple=st.sampled_from([1, 2]))
def test_windows_cover_every_voxel(length, window, multiple):
    starts = window_starts(length, window, multiple=multiple)
    covered = np.zeros(length, bool)
    for start in starts:
        assert start % multiple == 0
        covered[max(start, 0) : start + window] = True
    assert covered.all()
    assert window_shape((length,) * 3, window, 16)[0] <= window


def test_spacing_suits_the_structure_and_never_exceeds_the_scan():
    small = ball((64, 64, 64), (30, 30, 30), 20)
    assert choose_spacing([small], (1.0, 1.0, 1.0), 96) == 1.0
    ball_60 = ball((200, 200, 200), (100, 100, 100), 60)
    assert 2.0 <= choose_spacing([ball_60], (1.0, 1.0, 1.0), 96) <= 2.2  # the field of view of 200 mm fills 96 voxels
    assert 0.40 <= choose_spacing([ball_60], (0.2, 0.2, 0.2), 96) <= 0.44
    thin = np.zeros((200, 200, 200), bool)
    thin[98:102, 98:102] = True
    assert choose_spacing([thin], (0.5, 0.5, 0.5), 96) < 1.0


def test_an_absurd_field_of_view_is_refused_before_memory_is_taken():
    with pytest.raises(InputError, match="crop the scan"):
        WorkingGrid((10**6, 10**6, 10**6), (1.0, 1.0, 1.0), 1.0)
