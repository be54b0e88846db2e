"""The references whose image as a whole is most like the query: the baseline of object-level retrieval (paper)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import Case, InputError
from iris_core.embeddings import shared_classes
from iris_core.geometry import WorkingGrid, apply_matrices, oriented, window_shape
from iris_core.intensity import normalise
from iris_core.model.iris import Iris, precision
from iris_core.strategies.base import Context, Plan, QueryTask
from iris_core.strategies.references import encode_all, mean_of


def image_retrieval(context: Context) -> Plan:
    """All classes from the same references, nearest by the cosine of one descriptor an image."""
    context.require_references("image_retrieval")
    pool = encode_all(context)
    shared_classes([reference.embedding for reference in pool])  # else a value would mean this or that, as the query is
    scheme = pool[0].embedding.scheme
    descriptors = [descriptor(context.model, reference, scheme) for reference in context.references]
    for reference in context.encoded:
        if reference.descriptor is None:
            raise InputError(f"{reference.name}: image_retrieval needs the reference's image, a task file has none")
        descriptors.append(reference.descriptor)
    images = torch.stack(descriptors)
    centre = images.mean(0)

    def plan(query: Case | None) -> QueryTask:
        if len(pool) == 1:
            return QueryTask(pool[0].embedding, dict.fromkeys(pool[0].embedding.names, pool[0].name))
        if query is None:
            raise InputError("image_retrieval makes another task for every query: there is none without a query")
        near = F.cosine_similarity((descriptor(context.model, query, scheme) - centre)[None], images - centre)
        best = near.argsort(descending=True)[: context.options.top_k].tolist()
        chosen = mean_of([pool[i] for i in best])
        note = ", ".join(f"{pool[i].name} ({near[i]:.3f})" for i in best)
        return QueryTask(chosen, dict.fromkeys(chosen.names, note))

    return plan


@torch.inference_mode()
def descriptor(model: Iris, case: Case, scheme: str) -> Tensor:
    """(C,): the mean of the encoder's bottleneck over the whole field of view, seen in one window."""
    image, spacing_mm = oriented(case, normalise(case.image, scheme))
    extent_mm = np.array(image.shape) * spacing_mm
    grid = WorkingGrid(image.shape, spacing_mm, max(float(extent_mm.max()) / model.config.window, min(spacing_mm)))
    shape = window_shape(grid.working_shape, model.config.window, model.config.multiple)
    start = tuple(-((s - n) // 2) for s, n in zip(shape, grid.working_shape, strict=True))
    volume = torch.from_numpy(np.ascontiguousarray(image))
    device = next(model.parameters()).device
    cut = apply_matrices(volume, grid.window_matrices(start, shape))[None, None].to(device)
    with precision(device):
        return model.encode_image(cut).bottleneck.float().mean((0, 2, 3, 4)).cpu()
