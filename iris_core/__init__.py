"""The method: Iris, in-context 3D medical image segmentation (CVPR 2025).

Encode references once, segment any number of queries: ``segment(model, encode(model, reference), query)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.4.0"
__all__ = ["STRATEGIES", "Case", "TaskEmbedding", "encode", "load", "segment"]

if TYPE_CHECKING:
    from iris_core.case import Case
    from iris_core.checkpoint import load
    from iris_core.embeddings import TaskEmbedding
    from iris_core.inference import segment
    from iris_core.strategies import STRATEGIES
    from iris_core.strategies.references import encode
else:
    _MODULES = {
        "Case": "iris_core.case",
        "STRATEGIES": "iris_core.strategies",
        "TaskEmbedding": "iris_core.embeddings",
        "encode": "iris_core.strategies.references",
        "load": "iris_core.checkpoint",
        "segment": "iris_core.inference",
    }

    def __getattr__(name):  # at first use: `iris --help` need not wait for torch
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
