"""Several references, encoded once each; the mean of their task embeddings serves any number of queries."""

from iris_core.strategies.base import Context, Plan, always
from iris_core.strategies.references import encode_all, mean_of


def ensemble(context: Context) -> Plan:
    """Context ensemble (paper, section 3.5). References may each lack some classes."""
    context.require_references("ensemble")
    return always(mean_of(encode_all(context)))
