"""The gate, fitted once training is over: how registration and the head are to be weighed, seen from their answers.

In the loop it hardly moves: after 12 minutes it gave the same two weights whatever it saw, also where the head found
twenty times what registration did. Here it is a small regression of its own, on a few voxels of every class.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.data.episodes import Episode
from iris_core.model.iris import Iris, precision
from iris_core.model.mask_decoder import Gate

GATE_EPISODES = 300
SAMPLED = 1000  # samples of a class, of those that either answer or the truth marks, and of the others
STEPS, CLASSES, RATE = 800, 64, 1e-2  # of Adam; classes a step; learning rate, falling to 0


@dataclass(frozen=True)
class Sample:
    """One class of an episode. looked (8,): of ``Gate.look``. belief, learnt, truth (n,): logits and share of the class
    in samples of the answer's grid; weight (n,): how many samples each stands for."""

    looked: Tensor
    belief: Tensor
    learnt: Tensor
    truth: Tensor
    weight: Tensor


@torch.inference_mode()
def observe(model: Iris, device: torch.device, episode: Episode) -> list[Sample]:
    """What the gate sees of each class of an episode, and what would have been right."""
    if episode.carried is None:
        return []
    answers: list[Tensor] = []
    hook = model.mask_decoder.gate.register_forward_pre_hook(lambda gate, inputs: answers.extend(inputs))
    with precision(device), hook:
        reference, query = (model.encode_image(x.to(device)) for x in (episode.reference, episode.query))
        task = model.encode_task(reference, episode.reference_masks.to(device), episode.reference_box.to(device))
        model.decode(query, task, episode.query_box.to(device), episode.carried.to(device))
    belief, learnt, match = (answer.float() for answer in answers)
    truth = F.adaptive_avg_pool3d(episode.query_masks, belief.shape[2:])
    known = torch.ones_like(truth[0, 0]) if episode.query_valid is None else episode.query_valid[0, 0]
    known = (F.adaptive_avg_pool3d(known[None], truth.shape[2:])[0] > 0.5).flatten()
    looked = Gate.look(belief, learnt, match)[0].cpu()
    source = torch.Generator().manual_seed(episode.seed)
    samples = []
    for k, of_class in enumerate(torch.stack([belief.cpu(), learnt.cpu(), truth], 2)[0].flatten(2)):
        marked = (of_class > of_class.new_tensor([[0.0], [0.0], [0.1]])).any(0)
        chosen, weight = [], []
        for places in ((marked & known).nonzero()[:, 0], (~marked & known).nonzero()[:, 0]):
            if len(places):
                chosen.append(places[torch.randint(len(places), (SAMPLED,), generator=source)])
                weight.append(torch.full((SAMPLED,), len(places) / SAMPLED))
        if len(chosen) == 2:
            samples.append(Sample(looked[k], *of_class[:, torch.cat(chosen)], torch.cat(weight)))
    return samples


def fit(gate: Gate, samples: list[Sample]) -> None:
    """Begin the gate anew and fit it, by Dice + cross-entropy of the weighed answers (paper, section 3.4)."""
    if not samples:
        return
    looked, belief, learnt, truth, weight = (
        torch.stack([getattr(sample, name) for sample in samples]) for name in Sample.__annotations__
    )
    source = torch.Generator().manual_seed(0)
    device = next(gate.parameters()).device
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        fitted = Gate()
        optimiser = torch.optim.Adam(fitted.parameters(), lr=RATE)
        for step in range(STEPS):
            chosen = torch.randint(len(samples), (CLASSES,), generator=source)
            weights = fitted.weigh(looked[chosen])
            logits = weights[:, :1] * belief[chosen] + weights[:, 1:] * learnt[chosen]
            of, y, n = logits.sigmoid(), truth[chosen], weight[chosen]
            overlap, total = (of * y * n).sum(1), ((of + y) * n).sum(1)
            entropy = F.binary_cross_entropy_with_logits(logits, y, n, reduction="none").sum(1) / n.sum(1)
            loss = (1 - (2 * overlap + 1) / (total + 1) + entropy).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - (step + 1) / STEPS)
    gate.load_state_dict(fitted.to(device).state_dict())
