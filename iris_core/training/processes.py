"""Several processes, started by torchrun, that train one model: each learns its share of a batch, all step alike.

Episode i of the run is the same whoever makes it, so the stream does not depend on how many processes there are. What
each parameter's gradients sum to is added over the processes once an iteration, in one piece: with 8 million weights
that is what DistributedDataParallel would do in a bucket or two, and it leaves the loop as it reads alone.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=2)  # for the first process, which validates alone; one that dies is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model. number: from 0; the first alone writes."""

    number: int = 0
    of: int = 1

    @property
    def first(self) -> bool:
        return self.number == 0

    def device(self, device: torch.device) -> torch.device:
        """Of several on one machine each has a GPU of its own."""
        if self.of == 1 or device.type != "cuda" or device.index is not None:
            return device
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device

    def wait(self) -> None:
        """Until all are here."""
        if self.of > 1:
            dist.barrier()

    def agree(self, elapsed: float, stopped: bool) -> tuple[float, bool]:
        """The first one's clock, and whether any was told to stop: so that all end with the same iteration."""
        if self.of == 1:
            return elapsed, stopped
        said = torch.tensor([elapsed if self.first else 0.0, float(stopped)], dtype=torch.float64)
        dist.all_reduce(said)
        return said[0].item(), bool(said[1] > 0)

    def add(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The sum over the processes of each gradient; None where no process has one."""
        if self.of == 1:
            return list(gradients)
        known = torch.tensor([float(g is not None) for g in gradients], device=like[0].device)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, like, strict=True)]
        whole = torch.cat([known, *(part.flatten() for part in parts)])
        dist.all_reduce(whole)
        known, *flat = whole.split([len(parts), *(part.numel() for part in parts)])
        return [part.view(p.shape) if k else None for k, part, p in zip(known, flat, like, strict=True)]

    def gather(self, share: list) -> list:
        """What all made of their shares of a batch, in the batch's order; for the first process, [] for the others."""
        if self.of == 1:
            return share
        shares = [None] * self.of if self.first else None
        dist.gather_object(share, shares)
        return [one for part in shares or () for one in part]


ALONE = Processes()


@contextmanager
def together() -> Iterator[Processes]:
    """The processes that torchrun started, joined until the end; this one alone without torchrun."""
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
