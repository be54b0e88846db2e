"""For each structure of the query, the references whose structure is most like it (paper, section 3.5)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding, context_ensemble, only
from iris_core.inference import segment
from iris_core.strategies.base import Context, Plan, QueryTask
from iris_core.strategies.references import as_reference, encode_all, encode_at, mean_of


def retrieval(context: Context) -> Plan:
    """Object-level retrieval: segment the query with one reference, drawn at random; re-encode what was found; for
    each class on its own take the references nearest by cosine, and decode with their mean.

    A class that the first pass did not find takes all references that have it, and the notes say so.
    """
    context.require_references("retrieval")
    pool = encode_all(context)
    first = pool[np.random.default_rng(context.options.seed).integers(len(pool))].embedding
    everything = mean_of(pool)

    def plan(query: Case | None) -> QueryTask:
        if len(pool) == 1:
            return QueryTask(everything, dict.fromkeys(everything.names, pool[0].name))
        if query is None:
            raise InputError("retrieval makes another task for every query: there is none without a query")
        found = _seen_again(context, first, query)
        wanted: dict[int, list[str]] = {}
        notes = {}
        for name in everything.names:
            having = [i for i, reference in enumerate(pool) if name in reference.embedding.names]
            if found is not None and name in found.names:
                near = _cosine(found, [pool[i].embedding for i in having], name)
                best = near.argsort(descending=True)[: context.options.top_k].tolist()
                notes[name] = ", ".join(f"{pool[having[i]].name} ({near[i]:.3f})" for i in best)
                having = [having[i] for i in best]
            else:
                notes[name] = f"not found by the first pass: all {len(having)} references"
            for i in having:
                wanted.setdefault(i, []).append(name)
        chosen = context_ensemble([only(pool[i].embedding, names) for i, names in sorted(wanted.items())])
        return QueryTask(chosen, notes)

    return plan


def _seen_again(context: Context, first: TaskEmbedding, query: Case) -> TaskEmbedding | None:
    """T of what the first pass finds in the query; None if it finds nothing."""
    shown = as_reference(query, segment(context.model, first, query), first)
    return encode_at(context.model, shown, first.spacing_mm, first.scheme, False) if shown.present() else None


def _cosine(query: TaskEmbedding, pool: list[TaskEmbedding], name: str) -> Tensor:
    """Similarity of one class's T between the query and each reference, around the mean of the references."""
    vectors = torch.stack([e.task.tokens[0, e.names.index(name)].flatten() for e in (query, *pool)])
    vectors = vectors - vectors[1:].mean(0) if len(pool) > 1 else vectors
    return F.cosine_similarity(vectors[:1], vectors[1:])
