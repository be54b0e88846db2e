"""The state of a run: what it learns, what it began with, and how it goes on after an end."""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from pytorch_optimizer import Lamb
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from iris_core import files
from iris_core.case import InputError
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import Iris, IrisConfig

AVERAGE_DECAY = 0.998  # of the weights' average, an iteration; less at first. Ours


@dataclass
class State:
    """average: the model with the exponential average of its weights, a candidate beside the last ones.

    LAMB's step is a share of a weight's own size (paper: LAMB). Biases, which begin at zero, and the small gate would
    hardly move by it; theirs is Adam's.
    """

    model: Iris
    optimiser: Lamb
    average: Iris
    bank: MemoryBank = field(default_factory=MemoryBank)
    iteration: int = 0
    elapsed: float = 0.0  # seconds

    @classmethod
    def of(cls, model: Iris, learning_rate: float, weight_decay: float) -> "State":
        kinds: dict[bool, list] = {False: [], True: []}
        for name, parameter in model.named_parameters():
            kinds[name.endswith("bias") or ".gate." in name].append(parameter)
        groups = [{"params": parameters, "adam": adam} for adam, parameters in kinds.items() if parameters]
        optimiser = Lamb(groups, lr=learning_rate, weight_decay=weight_decay)
        return cls(model, optimiser, deepcopy(model).requires_grad_(False).eval())

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average towards the weights, after an iteration."""
        decay = min(AVERAGE_DECAY, self.iteration / (self.iteration + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def tensors(self) -> dict:
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key in ("exp_avg", "exp_avg_sq"):
                if parameter in self.optimiser.state:
                    tensors[f"optimiser/{key}/{name}"] = self.optimiser.state[parameter][key]
        tensors |= {f"bank/{k}": v for k, v in self.bank.tensors().items()}
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def save(self, path: Path, config, index: dict[str, dict]) -> None:
        """Everything a run needs to go on, in one file without pickle, replaced in one step."""
        tensors = self.tensors()
        metadata = {
            "iteration": str(self.iteration),
            "elapsed": str(self.elapsed),
            "step": str(self.optimiser.param_groups[0].get("step", 0)),
            "config": json.dumps(asdict(config)),
            "model": json.dumps(self.model.config.to_dict()),
            "index": json.dumps(index, sort_keys=True),
        }
        files.write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))

    def restore(self, path: Path, config, index: dict[str, dict]) -> None:
        """Go on from a file of ``save``. Raises InputError where that run had other settings or datasets."""
        with safe_open(path, "pt") as stored:
            metadata = stored.metadata()
            tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118
        if IrisConfig(**json.loads(metadata["model"])) != self.model.config:
            raise InputError(
                f"{path}: was made with another model configuration; choose the run's own --preset and --without"
            )
        if metadata["index"] != json.dumps(index, sort_keys=True):
            raise InputError(f"{path}: the run began with other datasets or another split; --resume must repeat them")
        before = type(config)(**json.loads(metadata["config"]))
        free = {"workers": 0, "save_every": 0, "validate_every": 0, "validate_pairs": 0}
        if replace(before, **free) != replace(config, **free):
            raise InputError(f"{path}: the run began with other settings, {before}; --resume must repeat them")

        def part(prefix: str) -> dict:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model/"))
        self.average.load_state_dict(part("average/"))
        for name, parameter in self.model.named_parameters():
            for key in ("exp_avg", "exp_avg_sq"):
                stored_name = f"optimiser/{key}/{name}"
                if stored_name in tensors:
                    like = torch.empty_like(parameter).copy_(tensors[stored_name].to(parameter.device))
                    self.optimiser.state[parameter][key] = like
        for group in self.optimiser.param_groups:
            group["step"] = int(metadata["step"])
        self.bank = MemoryBank.from_tensors(part("bank/"))
        self.iteration, self.elapsed = int(metadata["iteration"]), float(metadata["elapsed"])


def begin_with(model: Iris, start_from: Path) -> None:
    """Copy a checkpoint's weights. What the model has beyond them stays random; further input channels begin as zero,
    and where there are so many outputs more for each, all do what the one did."""
    weights = start_from / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{start_from}: a weights folder must hold model.safetensors; none was found")
    new = model.state_dict()
    for name, old in load_file(weights).items():
        grown = new.get(name)
        if grown is None:
            raise InputError(f"{start_from}: must be of the preset that is trained, which has no {name}")
        old = old.repeat_interleave(max(1, grown.shape[0] // old.shape[0]), 0) if old.ndim else old
        inner = (*old.shape[:1], *grown.shape[1:2], *old.shape[2:])
        if grown.shape != inner or (old.ndim > 1 and old.shape[1] > grown.shape[1]):
            raise InputError(f"{start_from}: must be of the preset that is trained, its {name} does not fit")
        grown.zero_()
        grown[(slice(None), slice(old.shape[1])) if old.ndim > 1 else ...] = old
