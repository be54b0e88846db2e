"""Several references, encoded once each; the mean of their task embeddings serves any number of queries."""

from collections.abc import Sequence

from iris_core.case import Case
from iris_core.embeddings import TaskEmbedding, context_ensemble
from iris_core.model.iris import Iris
from iris_core.strategies.references import encode, shared_scale


def ensemble(model: Iris, references: Sequence[Case], grid: str = "auto", scheme: str | None = None) -> TaskEmbedding:
    """Context ensemble (paper, section 3.5). References may each lack some classes. Arguments as for one_shot."""
    spacing_mm, scheme = shared_scale(model, references, grid, scheme)
    return context_ensemble([encode(model, reference, spacing_mm, scheme, grid == "auto") for reference in references])
