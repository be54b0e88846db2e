"""One reference, encoded once, reused for any number of queries (paper, section 3.5)."""

from iris_core.case import InputError
from iris_core.strategies.base import Context, Plan, always
from iris_core.strategies.references import encode_all


def one_shot(context: Context) -> Plan:
    """Every class that the one reference shows. Raises InputError where there is not one, or it shows nothing."""
    if (n := len(context.references) + len(context.encoded)) != 1:
        raise InputError(f"one_shot takes one reference, got {n}; choose ensemble for several")
    return always(encode_all(context)[0].embedding)
