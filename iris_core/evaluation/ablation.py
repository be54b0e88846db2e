"""The paper's Table 4 at inference: a trained model whose T lacks one part.

That is harder on the model than training without the part (`iris train --without`), which lets it make do: the rows say
what these weights lean on, not what the part is worth.
"""

from dataclasses import replace

import torch
from torch import Tensor

from iris_core.model.iris import PARTS, Features, Iris, IrisConfig, without
from iris_core.model.task_encoder import Task

SWITCHES = ("high_resolution", "foreground")  # of the task encoder, without weights of their own


def parts_of(config: IrisConfig) -> list[str]:
    """The PARTS that a model has and can lose: not the only kind of token it has left."""
    alone = {"foreground"} if not config.query_tokens else {"query_tokens"} if not config.foreground else set()
    return [part for part in PARTS if getattr(config, part) and part not in alone]


class Ablated(Iris):
    """The weights of a trained model; T without one of PARTS, wherever it is encoded.

    high_resolution and foreground are switched off, of other parts T holds zeros or nothing: T_c (query_tokens),
    prototypes, location prior, spatial memory; nothing is registered.
    """

    def __init__(self, model: Iris, part: str) -> None:
        super().__init__(without(model.config, part) if part in SWITCHES else model.config)
        self.load_state_dict(model.state_dict())
        self.part = part
        device = next(model.parameters()).device
        self.to(device=device).train(model.training)

    @property
    def registers(self) -> bool:
        return super().registers and self.part != "registration"

    def encode_task(self, reference: Features, masks: Tensor, box: Tensor) -> Task:
        task = super().encode_task(reference, masks, box)
        match self.part:
            case "query_tokens":
                first, rest = task.tokens.split([1, task.tokens.shape[2] - 1], 2)
                return replace(task, tokens=torch.cat([first, torch.zeros_like(rest)], 2))
            case "prototypes":
                return replace(task, prototypes=torch.zeros_like(task.prototypes))
            case "location_prior":
                return task.without_location()
            case "spatial_memory":
                return task.without_memory()
        return task
