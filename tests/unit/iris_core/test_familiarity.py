"""What a model does not find again in the reference itself is left to registration, where that is sure."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import smooth_noise

from iris_core.model.mask_decoder import SURE_OF, sureness

WHOLE = torch.tensor([[[-1.0] * 3, [1.0] * 3]])
SHAPE, HALF = (48, 64, 48), (24, 32, 24)


@pytest.fixture(scope="module")
def tissues():
    """A piecewise constant image."""
    return (smooth_noise(SHAPE, 10, 0) * 3).round()


@pytest.fixture(scope="module")
@torch.inference_mode()
def task(tiny, tissues):
    """T of two tissues."""
    masks = torch.cat([tissues < -1, tissues > 1], 1).float()
    return tiny.encode_task(tiny.encode_image(tissues), masks, WHOLE)


@torch.inference_mode()
def test_a_sure_registration_answers_for_an_unfamiliar_class(tiny, tissues, task):
    half_known = replace(task, familiarity=torch.tensor([[0.0, 1.0]]))
    carried = torch.stack(
        [F.avg_pool3d(torch.cat([tissues < -1, tissues > 1], 1).float(), 2), torch.ones(1, 2, *HALF)], 2
    )
    alone = tiny.mask_decoder.evidence.belief(carried)
    answered = tiny.decoded(tissues, half_known, WHOLE, carried)
    assert (sureness(alone) > SURE_OF[1]).all()
    assert torch.allclose(answered[:, 0], alone[:, 0], atol=1e-4)
    assert not torch.allclose(answered[:, 1], alone[:, 1], atol=1e-2)
    assert torch.equal(answered[:, 1], tiny.decoded(tissues, task, WHOLE, carried)[:, 1])


@torch.inference_mode()
def test_an_unsure_registration_leaves_it_to_the_head(tiny, tissues, task):
    strange, unsure = replace(task, familiarity=torch.zeros(1, 2)), torch.full((1, 2, 2, *HALF), 0.1)
    assert (sureness(tiny.mask_decoder.evidence.belief(unsure)) < SURE_OF[0]).all()
    assert torch.equal(tiny.decoded(tissues, strange, WHOLE, unsure), tiny.decoded(tissues, task, WHOLE, unsure))
