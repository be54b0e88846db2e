"""Strategies: each makes, of what is given, a plan that has T for every query. A new one is one file and one line."""

from iris_core.strategies.base import Chosen, Given, Known, Options, Plan, Strategy
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

__all__ = ["STRATEGIES", "Chosen", "Given", "Known", "Options", "Plan", "Strategy"]
