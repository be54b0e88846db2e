"""Metrics on whole volumes in the query's own grid."""

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> float | None:
    """Dice of two boolean volumes, over the voxels where ``valid``. None where both are empty: nothing was asked."""
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else None
