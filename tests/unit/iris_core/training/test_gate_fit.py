"""The gate is fitted to answers: it learns whom to follow, from what it can see of both."""

import torch
from conftest import ball

from iris_core.data.episodes import EpisodeDataset
from iris_core.model.iris import PRESETS
from iris_core.model.mask_decoder import Gate
from iris_core.training.gate import SAMPLED, Sample, fit, observe
from nnunet_adapters.raw import build_cache, open_dataset

SHAPE = (16, 14, 12)


def answer(radius: float, centre) -> torch.Tensor:
    return torch.from_numpy(ball(SHAPE, centre, radius)).float()[None, None] * 8 - 4


def of(belief: torch.Tensor, learnt: torch.Tensor, truth: torch.Tensor) -> Sample:
    everywhere = [x.flatten() for x in (belief, learnt, (truth > 0).float())]
    return Sample(Gate.look(belief, learnt, belief.sigmoid())[0, 0], *everywhere, torch.ones(belief.numel()))


def test_a_head_that_finds_far_too_much_is_left_out_and_one_that_agrees_is_not():
    rng = torch.Generator().manual_seed(0)
    agreeing, excessive = [], []
    for _ in range(40):
        x, y, z = (6 + 3 * torch.rand(3, generator=rng)).tolist()
        truth, beside = answer(3, (x, y, z)), answer(3, (x + 2, y, z))
        agreeing.append(of(beside, 2 * truth, truth))  # registration is a little off, the head is right
        excessive.append(of(truth, answer(9, (x, y, z)), truth))
    gate = Gate()
    fit(gate, agreeing + excessive)
    (of_belief, of_learnt), (trusted, left_out) = (
        gate.weigh(torch.stack([sample.looked for sample in samples])).mean(0) for samples in (agreeing, excessive)
    )
    assert of_learnt > 0.5 * of_belief
    assert left_out < 0.5 * trusted
    again = Gate()
    torch.rand(1)  # whatever was drawn before
    fit(again, agreeing + excessive)
    assert all(torch.equal(a, b) for a, b in zip(gate.parameters(), again.parameters(), strict=True))


def test_what_is_observed_stands_for_the_whole_window_without_what_is_to_be_ignored(raw_data, tmp_path, tiny):
    index = build_cache([open_dataset("902", raw_data)], tmp_path / "splits", tmp_path / "cache")
    episodes = EpisodeDataset(tmp_path / "cache", index, PRESETS["tiny"], seed=0, synthetic=0.0, whole=True)
    for i in range(6):
        episode = episodes[i]
        assert not episode.drop_memory and not episode.strangeness and episode.carried is not None
        for sample in observe(tiny, torch.device("cpu"), episode):
            assert sample.looked.shape == (8,) and sample.belief.shape == (2 * SAMPLED,)
            cells = episode.query.numel() / PRESETS["tiny"].stem_stride ** 3
            share = episode.query_valid.mean().item()
            assert sample.weight.sum().item() < cells + 1 and abs(sample.weight.sum().item() / cells - share) < 0.15
