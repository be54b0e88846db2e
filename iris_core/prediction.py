"""What decoding makes of a query: scores on the working grid. From them labels and probabilities on the query's own."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from iris_core.geometry import Orientation, Scores, apply_matrices, labels_back, spanned


@dataclass(frozen=True)
class Prediction:
    """scores: logits (K, x, y, z), positive where a class is more likely there than not. values: label of each class.

    overlapping: classes are regions, painted one over the other. orientation: of the query, to RAS+ order.
    """

    scores: Scores
    values: tuple[int, ...]
    overlapping: bool
    orientation: Orientation

    def labels(self, threshold: float = 0.5) -> np.ndarray:
        """Labels (x, y, z) int32 in the query's own axis order and grid: the likeliest class, 0 where none is likelier
        than ``threshold``.
        """
        labels = labels_back(self.scores, self.values, self.overlapping, threshold)
        return np.ascontiguousarray(self.orientation.invert(labels))

    @torch.inference_mode()
    def probabilities(self) -> Iterator[np.ndarray]:
        """Of one class after another, how likely it is (0 to 1): (x, y, z) float16 in the query's own order and grid.

        Classes are independent: in a voxel the probabilities need not add up to 1.
        """
        for index in range(len(self.values)):
            volume = _probability(self.scores, index)
            yield np.ascontiguousarray(self.orientation.invert(volume))


def _probability(scores: Scores, index: int) -> np.ndarray:
    """Probability of one class on the volume's grid, (x, y, z) float16 in RAS+ order; 0 where nothing was looked at."""
    matrices = scores.back_matrices()
    spans = tuple(map(spanned, matrices))
    rows = tuple(m[span] for m, span in zip(matrices, spans, strict=True))
    volume = np.zeros(scores.grid.shape, np.float16)
    volume[spans] = apply_matrices(scores.values[index], rows).sigmoid().numpy()
    return volume
