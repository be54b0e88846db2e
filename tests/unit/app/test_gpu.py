"""What crosses to the process with the lent GPU, and how long it is asked for. ZeroGPU itself exists on Spaces only."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from app import gpu
from app.service import Service
from nnunet_adapters.images import read_reference


@pytest.fixture
def service(tiny_weights):
    return Service(str(tiny_weights), "cpu")


def test_elsewhere_a_call_is_just_a_call():
    assert not gpu.LENT
    assert gpu.lend(abs, gpu.seconds) is abs


def test_what_crosses_can_be_pickled_and_gives_the_same(service, scan):
    case = read_reference(*map(Path, scan))
    sent = pickle.loads(pickle.dumps(("one_shot", [case], (), {"grid": "auto"}, case)))
    chosen = pickle.loads(pickle.dumps(service._choose(*sent)))
    here = service.plan("one_shot", [case])(case).embedding
    assert torch.equal(chosen.embedding.task.tokens, here.task.tokens)
    labels = pickle.loads(pickle.dumps(service._segment(chosen.embedding, case)))
    assert (labels == service.segment(here, case)).all()
    expected = service.confidence([case], case, labels, here)
    assert pickle.loads(pickle.dumps(service._confidence([case], case, labels, chosen.embedding))) == expected


def test_the_duration_grows_with_the_windows(service, scan):
    case = read_reference(*map(Path, scan))
    task, model = service.encode(case), service.checkpoint.model
    large = type(case)(np.tile(case.image, (4, 1, 1)), case.affine)
    assert gpu.START_S < gpu.seconds(model, task, case) < gpu.seconds(model, task, large) < gpu.LONGEST_S
    one = gpu.seconds(model, case) - gpu.START_S
    assert gpu.seconds(model, "one_shot", [case, case], (), {}, case) == pytest.approx(gpu.START_S + 3 * one)
