"""What is left out of a result, and the numbers beside it."""

import numpy as np
import pytest
import torch

from iris_core.case import InputError
from iris_core.geometry import Orientation, Scores, WorkingGrid
from iris_core.prediction import Prediction
from nnunet_adapters.outputs import Wanted, leave_out


def some_pieces() -> np.ndarray:
    """Of 3: pieces of 27, 8 and 1 voxels, the last two touching at a corner; and one voxel of 5."""
    labels = np.zeros((12, 12, 12), np.int32)
    labels[1:4, 1:4, 1:4] = 3
    labels[6:8, 6:8, 6:8] = labels[8, 8, 8] = 3
    labels[11, 0, 0] = 5
    return labels


@pytest.mark.parametrize(
    ("largest", "least", "voxels"), [(True, 0, 27), (False, 9, 36), (False, 9.5, 27), (True, 28, 0)]
)
def test_pieces_are_left_out_of_one_label_only(largest, least, voxels):
    labels = some_pieces()
    leave_out(labels, 3, largest, least)
    leave_out(labels, 4, True, 1)
    assert (labels == 3).sum() == voxels
    assert (labels == 5).sum() == 1


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"min_ml": -1}, {"min_ml": float("nan")}])
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="must be"):
        Wanted(**wrong)


def test_labels_are_where_the_probability_is_above_the_threshold():
    """A scan stored as (z, x, y) with x reversed, of which only a part was looked at."""
    affine = np.array([[0, -2.0, 0, 10], [0, 0, 2, 20], [2, 0, 0, 30], [0, 0, 0, 1]])
    grid = WorkingGrid((10, 11, 12), (2.0, 2.0, 2.0), 2.0)
    logits = torch.randn(2, 6, 11, 12, generator=torch.Generator().manual_seed(0)) * 3
    prediction = Prediction(Scores(grid, (2, 0, 0), logits), (4, 9), False, Orientation.of(affine))
    both = np.stack(list(prediction.probabilities()))
    assert both.dtype == np.float16
    assert both.shape == (2, 12, 10, 11)
    for threshold in (0.1, 0.5, 0.9):
        best = np.where(both.max(0) > threshold, np.array([4, 9])[both.argmax(0)], 0)
        certain = np.abs(both[0] - both[1]) > 1e-2
        certain &= (np.abs(both - threshold) > 1e-2).all(0)
        labels = prediction.labels(threshold)
        assert (labels == best)[certain].all()
        assert certain.mean() > 0.5
    assert (both[:, :, 8:] == 0).all() or (both[:, :, :2] == 0).all()  # there nothing was looked at
