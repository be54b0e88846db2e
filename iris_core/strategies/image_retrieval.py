"""The references whose image as a whole is most like the query: the baseline of object-level retrieval (paper)."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from iris_core.case import Case
from iris_core.geometry import WorkingGrid, apply_matrices, oriented, window_shape
from iris_core.intensity import normalise
from iris_core.model.iris import Iris, precision
from iris_core.strategies.base import Chosen, Given, Plan
from iris_core.strategies.references import encode_all, mean_of
from iris_core.strategies.search import Library


def image_retrieval(given: Given) -> Plan:
    """All classes from the same references, nearest by the cosine of one descriptor an image."""
    given.require_references("image_retrieval")
    pool = encode_all(given)
    classes = pool.classes()  # else a value would mean this or that, as the query is
    scheme = pool[0].embedding.scheme
    if given.references:
        shown = zip(pool, given.references, strict=False)  # the references come first
        described = [replace(known, descriptor=descriptor(given.model, case, scheme)) for known, case in shown]
        pool = Library([*described, *list(pool)[len(described) :]])

    def plan(query: Case) -> Chosen:
        if len(pool) == 1:
            return Chosen(pool[0].embedding, dict.fromkeys(classes, pool[0].name))
        near = pool.looking_like(descriptor(given.model, query, scheme), given.options.top_k)
        chosen = mean_of([pool.get(key) for key, _ in near])
        note = ", ".join(f"{pool.get(key).name} ({cosine:.3f})" for key, cosine in near)
        return Chosen(chosen, dict.fromkeys(chosen.names, note))

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
