"""Quality without ground truth: swap the roles of reference and query, and see whether the reference comes back.

That alone is fooled by a reference that does not belong to the query: a wrong place may lead back to where it came
from. So it counts as much as what was found looks like what was shown.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch.nn.functional as F

from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding
from iris_core.evaluation.metrics import dice
from iris_core.inference import segment
from iris_core.model.iris import Iris
from iris_core.strategies.references import as_reference, encode_at

LIKENESS = 4  # ours: of 1, 4 and 8 the one that keeps good results above 0.5 and wrong ones below


def confidence(
    model: Iris,
    references: Sequence[Case],
    query: Case,
    labels: np.ndarray,
    embedding: TaskEmbedding,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, float]:
    """Class name → Dice of the reference's true mask and what the query's prediction, shown as a mask, finds in it,
    times the likeness of the two: cosine of T_f (Eq. 2) to the power of LIKENESS.

    labels: the prediction, on the query's grid. The first reference that shows a class speaks for it. 0 for a class
    that was not found; one that no reference shows is left out, and so are all where classes are overlapping regions.
    progress: called before every window of every pass, with steps of the pass done, all; may raise to end it.
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
            scale = embedding.spacing_mm, embedding.scheme, bool(embedding.overviews)
            back = encode_at(model, shown, *scale, progress)
        predicted = segment(model, back, reference, progress) if back else np.zeros(reference.image.shape, np.int32)
        value = dict(zip(embedding.names, embedding.values, strict=True))
        for c in asked:
            returned = dice(predicted == value[c.name], c.mask(reference.labels)) if c.name in found else 0.0
            result[c.name] = returned * _likeness(embedding, back, c.name) if returned else 0.0
    return result


def _likeness(shown: TaskEmbedding, found: TaskEmbedding, name: str) -> float:
    """0 to 1: how alike the mean features are under what was shown and under what was found."""
    first, second = (e.task.tokens[0, e.names.index(name), 0].float() for e in (shown, found))
    return float(F.cosine_similarity(first, second, dim=0).clamp_min(0) ** LIKENESS)
