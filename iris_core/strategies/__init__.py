"""Strategies: each turns references into a plan, a function from a query to its task embedding.

A new one is one file here and one line below.
"""

from iris_core.strategies.base import Context, EncodedReference, Options, Plan, QueryTask, Strategy
from iris_core.strategies.ensemble import ensemble
from iris_core.strategies.image_retrieval import image_retrieval
from iris_core.strategies.memory_bank import memory_bank
from iris_core.strategies.one_shot import one_shot
from iris_core.strategies.retrieval import retrieval
from iris_core.strategies.tuning import tuning

STRATEGIES: dict[str, Strategy] = {
    "one_shot": one_shot,
    "ensemble": ensemble,
    "memory_bank": memory_bank,
    "retrieval": retrieval,
    "image_retrieval": image_retrieval,
    "tuning": tuning,
}

__all__ = ["STRATEGIES", "Context", "EncodedReference", "Options", "Plan", "QueryTask", "Strategy"]
