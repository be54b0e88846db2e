"""Quality without ground truth: swap the roles of reference and query, and see whether the reference comes back."""

from collections.abc import Sequence

import numpy as np

from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding
from iris_core.evaluation.metrics import dice
from iris_core.inference import segment
from iris_core.model.iris import Iris
from iris_core.strategies.references import as_reference, encode


def confidence(
    model: Iris, references: Sequence[Case], query: Case, labels: np.ndarray, embedding: TaskEmbedding
) -> dict[str, float]:
    """Class name → Dice of the reference's true mask and what the query's prediction, shown as a mask, finds in it.

    labels: the prediction, on the query's grid. The first reference that shows a class speaks for it. 0 for a class
    that was not found; one that no reference shows is left out, and so are all where classes are overlapping regions.
    """
    if embedding.overlapping:
        return {}
    shown = as_reference(query, labels, embedding)
    found = {c.name for c in shown.present()}
    result: dict[str, float] = {}
    back = None
    for reference in references:
        asked = [c for c in reference.present() if c.name in embedding.names and c.name not in result]
        if not asked:
            continue
        if found and back is None:
            back = encode(model, shown, embedding.spacing_mm, embedding.scheme, bool(embedding.overviews))
        predicted = segment(model, back, reference) if back else np.zeros(reference.image.shape, np.int32)
        value = dict(zip(embedding.names, embedding.values, strict=True))
        for c in asked:
            result[c.name] = dice(predicted == value[c.name], c.mask(reference.labels)) if c.name in found else 0.0
    return result
