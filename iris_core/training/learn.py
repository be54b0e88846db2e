"""What one process learns of its share of a batch: losses, gradients, and T for the memory bank."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from torch import Tensor

from iris_core.data.episodes import Episode
from iris_core.model.iris import Iris, precision
from iris_core.model.losses import matching_loss, segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.training.processes import Processes


@dataclass(frozen=True)
class Learnt:
    """What the run keeps of an episode. keys, task: for the memory bank, T without its memory, on the CPU."""

    keys: list[str]
    task: Task
    loss: float
    refused: tuple[str, ...]


def learn_share(
    pool: ThreadPoolExecutor, at_once: int, learn, loader: Iterator[Episode], number: int
) -> tuple[list[Learnt], list[Tensor | None]]:
    """Learn the next episodes, ``at_once`` in threads: as many gradients are in memory, however large the batch is.

    Returns what is kept of them and the sum of their gradients. It is made in pairs, and pairs of pairs, so that one
    process and two come to the same bits, and it does not matter which thread was first.
    """
    learnt: list[Learnt] = []
    sums: list[tuple[int, list[Tensor | None]]] = []  # of how many episodes, their gradients
    for first in range(0, number, at_once):
        for one, gradients in pool.map(learn, list(islice(loader, min(at_once, number - first)))):
            learnt.append(one)
            of, total = 1, list(gradients)
            while sums and sums[-1][0] == of:
                of, total = 2 * of, list(map(_sum, sums.pop()[1], total))
            sums.append((of, total))
    return learnt, reduce(lambda later, before: list(map(_sum, before, later)), [total for _, total in reversed(sums)])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second


def learn_one(model: Iris, device: torch.device, episode: Episode) -> tuple[Learnt, tuple[Tensor | None, ...]]:
    """Forward and backward of one episode: what is kept of it, and the gradient of every parameter."""
    carried = episode.carried and episode.carried.to(device)
    with precision(device):
        reference, query = (model.encode_image(x.to(device)) for x in (episode.reference, episode.query))
        task = model.encode_task(reference, episode.reference_masks.to(device), episode.reference_box.to(device))
        used = task.bare() if episode.drop_memory else task
        used = used.without_location() if episode.drop_location else used
        used = used.strange(episode.strangeness, episode.seed) if episode.strangeness else used
        box = episode.query_box.to(device)
        evidence = model.compare(query, used, box, carried)
        logits = model.decode(query, used, box, evidence=evidence)
    masks = episode.query_masks.to(device)
    loss = segmentation_loss(logits, masks, None if episode.query_valid is None else episode.query_valid.to(device))
    if evidence is not None and evidence.match is not None and not episode.drop_memory:
        loss = loss + matching_loss(evidence.match, masks)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    kept = task.bare().map(lambda t: t.detach().float().cpu())
    return Learnt(episode.keys, kept, loss.item(), episode.refused), gradients


def average_gradients(
    model: Iris, processes: Processes, of_share: Sequence[Tensor | None], batch: int, clip: float
) -> float:
    """The mean over the episodes of a batch, of all processes. Returns its norm."""
    parameters = list(model.parameters())
    for parameter, total in zip(parameters, processes.add(of_share, parameters), strict=True):
        # In the parameter's own order in memory, on which the last bits of a norm depend.
        parameter.grad = None if total is None else torch.empty_like(parameter).copy_(total / batch)
    return torch.nn.utils.clip_grad_norm_(parameters, clip).item()


@contextmanager
def side_by_side(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Episodes of a batch in threads of their own: on a CPU that uses the cores better than each operation does. For a
    GPU one thread: 86 ms an episode where four take 190, since each waits for the others to launch (H100)."""
    cores = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        at_once = cores if device.type == "cpu" else 1
        with ThreadPoolExecutor(at_once) as pool:
            yield pool, at_once
    finally:
        torch.set_num_threads(cores)
