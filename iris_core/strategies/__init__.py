"""Strategies: each makes a TaskEmbedding from references. A new one is one file and one line here."""

from iris_core.strategies.ensemble import ensemble
from iris_core.strategies.one_shot import one_shot

STRATEGIES = {"one_shot": one_shot, "ensemble": ensemble}
