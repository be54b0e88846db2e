"""For each structure of the query, the references whose structure is most like it (paper, section 3.5)."""

import numpy as np

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding, context_ensemble, only
from iris_core.inference import segment
from iris_core.strategies.base import Context, Plan, QueryTask
from iris_core.strategies.references import as_reference, encode_all, encode_at, mean_of

MANY = 100  # references that stand for all that show a class. Ours: of so many the mean no longer moves


def retrieval(context: Context) -> Plan:
    """Object-level retrieval: segment the query with one reference, drawn at random; re-encode what was found; for
    each class on its own take the references nearest by cosine, and decode with their mean.

    A class that the first pass did not find takes all references that have it, of many MANY, and the notes say so.
    """
    context.require_references("retrieval")
    pool = encode_all(context)
    classes = pool.classes()
    first = pool[int(np.random.default_rng(context.options.seed).integers(len(pool)))].embedding

    def plan(query: Case | None) -> QueryTask:
        if len(pool) == 1:
            return QueryTask(mean_of(pool), dict.fromkeys(classes, pool[0].name))
        if query is None:
            raise InputError("retrieval makes another task for every query: there is none without a query")
        found = _seen_again(context, first, query)
        wanted: dict[int, list[str]] = {}
        notes = {}
        for name in classes:
            if found is not None and name in found.names:
                near = pool.like(name, found, context.options.top_k)
                notes[name] = ", ".join(f"{pool.get(key).name} ({cosine:.3f})" for key, cosine in near)
                keys = [key for key, _ in near]
            else:
                having = pool.having(name)
                keys = having[:: -(-len(having) // MANY)]
                some = "all" if keys == having else f"{len(keys)} of"
                notes[name] = f"not found by the first pass: {some} {len(having)} references"
            for key in keys:
                wanted.setdefault(key, []).append(name)
        chosen = context_ensemble([only(pool.get(key).embedding, names) for key, names in sorted(wanted.items())])
        return QueryTask(chosen, notes)

    return plan


def _seen_again(context: Context, first: TaskEmbedding, query: Case) -> TaskEmbedding | None:
    """T of what the first pass finds in the query; None if it finds nothing."""
    shown = as_reference(query, segment(context.model, first, query), first)
    return encode_at(context.model, shown, first.spacing_mm, first.scheme, False) if shown.present() else None
