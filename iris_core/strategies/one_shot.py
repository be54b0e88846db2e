"""One reference, encoded once, reused for any number of queries (paper, section 3.5)."""

from collections.abc import Sequence

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.model.iris import Iris
from iris_core.strategies.references import encode, shared_scale


def one_shot(model: Iris, references: Sequence[Case], grid: str = "auto", scheme: str | None = None) -> TaskEmbedding:
    """Every class that one reference shows.

    grid: 'auto' chooses the working spacing from the reference, 'paper' is 1.5 mm. scheme: of the intensities, or
    None to detect it from the values. Raises InputError where there is not one reference, or it shows nothing.
    """
    if len(references) != 1:
        raise InputError(f"one_shot takes one reference, got {len(references)}; choose ensemble for several")
    spacing_mm, scheme = shared_scale(model, references, grid, scheme)
    return encode(model, references[0], spacing_mm, scheme, overviews=grid == "auto")
