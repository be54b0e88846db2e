"""The gate: how much registration and the head count, class by class, told by their answers alone."""

import pytest
import torch
from conftest import smooth_noise

from iris_core.model.mask_decoder import Gate


@pytest.fixture
def answers():
    """Logits of registration and of the head, and a propagated mask, of three classes."""
    logits = [torch.cat([smooth_noise((12, 10, 8), 4, seed + k) * 4 for k in range(3)], 1) for seed in (0, 3)]
    return *logits, torch.rand(1, 3, 12, 10, 8, generator=torch.Generator().manual_seed(0))


def test_at_first_registration_counts_once_and_the_head_a_quarter(answers):
    assert torch.allclose(Gate()(*answers), torch.tensor([1.0, 0.25]).expand(1, 3, 2), atol=0.02)


def test_a_class_is_weighed_by_its_own_answers(answers):
    torch.manual_seed(0)
    gate = Gate()
    torch.nn.init.normal_(gate.layers[-1].weight)  # as training moves it
    together, alone = gate(*answers), gate(*(x[:, 1:2] for x in answers))
    assert torch.allclose(together[:, 1:2], alone) and ((together > 0) & (together < 2)).all()
    assert not torch.allclose(together[:, 0], together[:, 1])
    belief, learnt, match = answers
    assert not torch.allclose(gate(belief, -learnt, match), together)


def test_what_is_weighed_is_not_changed_by_learning_to_weigh(answers):
    belief, learnt, match = (x.clone().requires_grad_() for x in answers)
    gate = Gate()
    gate(belief, learnt, match).sum().backward()
    assert belief.grad is None and gate.layers[0].weight.grad is not None
