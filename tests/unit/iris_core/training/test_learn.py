"""Sums of gradients: the same bits from one process and from two."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from iris_core.training.learn import Learnt, learn_share


def learn(gradients, episode: int):
    return Learnt([str(episode)], None, float(episode), ()), gradients[episode]


@pytest.mark.parametrize("batch", [1, 2, 4, 6, 16])
@pytest.mark.parametrize("at_once", [1, 3])
def test_two_halves_of_a_batch_make_the_whole_to_the_bit(batch, at_once):
    noise = torch.Generator().manual_seed(0)
    gradients = [
        (torch.randn(1000, generator=noise), torch.randn(7, generator=noise) if i % 3 else None, None)
        for i in range(2 * batch)
    ]
    with ThreadPoolExecutor(at_once) as pool:

        def share(first: int, number: int):
            return learn_share(pool, at_once, partial(learn, gradients), iter(range(first, 2 * batch)), number)

        learnt, whole = share(0, 2 * batch)
        (_, first), (_, second) = share(0, batch), share(batch, batch)
    assert [one.loss for one in learnt] == list(range(2 * batch))
    assert whole[2] is first[2] is second[2] is None
    halves = first[0] + second[0]
    assert torch.allclose(whole[0], halves, atol=1e-4)
    if batch & (batch - 1) == 0:  # a power of two: pairs, and pairs of pairs
        assert torch.equal(whole[0], halves)
