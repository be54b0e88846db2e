"""Several references, encoded once each; the mean of their task embeddings serves any number of queries."""

from iris_core.embeddings import context_ensemble
from iris_core.strategies.base import Given, Plan, always
from iris_core.strategies.references import encode_all


def ensemble(given: Given) -> Plan:
    """Context ensemble (paper, section 3.5). References may each lack some classes."""
    given.require_references("ensemble")
    return always(context_ensemble(encode_all(given)))
