"""Properties of the whole model, at a tiny size and for every preset."""

from dataclasses import replace

import pytest
import torch

from iris_core.model.iris import PARTS, PRESETS, Iris, IrisConfig, without
from iris_core.model.losses import segmentation_loss
from iris_core.model.task_encoder import as_coarse
from iris_core.registration import Carried

BOX = torch.tensor([[[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]])


def task(model, masks, image):
    return model.encode_task(model.encode_image(image), masks, BOX)


@pytest.fixture
def episode():
    torch.manual_seed(1)
    return torch.randn(1, 1, 16, 24, 32), (torch.rand(1, 3, 16, 24, 32) > 0.6).float(), torch.randn(1, 1, 24, 16, 16)


def test_presets_have_the_promised_size():
    parameters = {name: sum(p.numel() for p in Iris(c).parameters()) / 1e6 for name, c in PRESETS.items()}
    assert abs(parameters["base"] / 69.4 - 1) < 0.05  # paper
    assert parameters["small"] <= 8


@torch.inference_mode()
def test_permuting_classes_permutes_the_output(tiny, episode):
    image, masks, query = episode
    order = torch.tensor([2, 0, 1])
    straight = tiny.decode(tiny.encode_image(query), task(tiny, masks, image), BOX)
    permuted = tiny.decode(tiny.encode_image(query), task(tiny, masks[:, order], image), BOX)
    assert torch.allclose(straight[:, order], permuted, atol=1e-4)


@torch.inference_mode()
def test_the_task_of_a_class_does_not_depend_on_the_others(tiny, episode):
    image, masks, _ = episode
    together, alone = task(tiny, masks, image), task(tiny, masks[:, 1:2], image)
    for name in ("tokens", "prototypes", "location", "memory_masks"):
        assert torch.allclose(getattr(together, name)[:, 1:2], getattr(alone, name), atol=1e-5), name


@torch.inference_mode()
def test_batched_equals_one_by_one(tiny, episode):
    image, masks, query = episode
    other = torch.randn_like(query)
    t = task(tiny, masks, image)
    twice = t.map(lambda x: torch.cat([x, x]))
    both = tiny.decode(tiny.encode_image(torch.cat([query, other])), twice, torch.cat([BOX, BOX]))
    each = torch.cat([tiny.decode(tiny.encode_image(q), t, BOX) for q in (query, other)])
    assert torch.allclose(both, each, atol=1e-3)


@torch.inference_mode()
def test_a_task_of_a_few_vectors_decodes(tiny, episode):
    image, masks, query = episode
    logits = tiny.decode(tiny.encode_image(query), task(tiny, masks, image).bare().without_location(), BOX)
    assert torch.isfinite(logits).all()


@torch.inference_mode()
def test_what_registration_says_is_a_term_of_the_logits(tiny, episode):
    image, masks, query = episode
    t, features = task(tiny, masks, image), tiny.encode_image(query)
    carried = Carried(torch.rand(1, 3, 24, 16, 16), torch.rand(1, 1, 12, 8, 8))

    def answer(*balance):
        balanced = replace(t, balance=torch.tensor(balance).expand(1, 3, 3))
        return tiny.decode(features, balanced, BOX, carried)

    registration, head = answer(1.0, 0.0, 0.0), answer(0.0, 1.0, 0.0)
    assert torch.equal(registration > 0, carried.masks > 0.5)
    assert torch.allclose(registration + head + 2, answer(1.0, 1.0, 2.0), atol=1e-4)
    assert torch.equal(answer(1.0, 1.0, 0.0), tiny.decode(features, t, BOX, carried))
    plain = Iris(without(tiny.config, "registration"))
    assert not plain.registers and plain.compare(plain.encode_image(query), t, BOX).masks is None


@pytest.mark.parametrize("part", PARTS)
def test_a_model_without_a_part_learns_and_is_another(part, episode, tiny):
    image, masks, query = episode
    torch.manual_seed(0)
    model = Iris(without(tiny.config, part))
    shared = {k: v for k, v in tiny.state_dict().items() if v.shape == model.state_dict().get(k, v[None]).shape}
    model.load_state_dict(shared, strict=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses, carried = [], Carried(torch.rand(1, 3, 24, 16, 16), torch.rand(1, 1, 12, 8, 8))
    for _ in range(2):
        logits = model(image, masks, BOX, query, BOX, carried)
        assert logits.shape == (1, 3, 24, 16, 16)
        losses.append(segmentation_loss(logits, torch.ones_like(logits)))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
        if len(losses) == 1:
            with torch.inference_mode():
                assert not torch.allclose(logits, tiny(image, masks, BOX, query, BOX, carried), atol=1e-4)
    assert losses[1] < losses[0]


def test_a_task_needs_a_token():
    with pytest.raises(ValueError, match="foreground or query_tokens"):
        without(PRESETS["tiny"], "foreground", "query_tokens")


def test_a_configuration_that_knows_no_ablation_loads():
    old = {k: v for k, v in PRESETS["small"].to_dict().items() if k not in ("high_resolution", "foreground")}
    assert IrisConfig(**old) == PRESETS["small"]


def test_a_coarse_mask_is_what_the_feature_grid_sees():
    masks = torch.zeros(1, 2, 8, 8, 8)
    masks[0, 0, 2, 2, 2] = masks[0, 1, 3, 3, 3] = 1  # the second lies between the middles of the cells
    seen = as_coarse(masks, (2, 2, 2))
    assert seen[0, 0, :4, :4, :4].all() and seen[0, 0].sum() == 64
    assert not seen[0, 1].any()


def test_all_switches_off_is_the_papers_decoder(episode):
    image, masks, query = episode
    off = dict.fromkeys(("prototypes", "location_prior", "registration", "spatial_memory"), False)
    model = Iris(IrisConfig(**{**PRESETS["tiny"].to_dict(), **off}))
    assert model(image, masks, BOX, query, BOX).shape == (1, 3, 24, 16, 16)
    assert model.mask_decoder.evidence.n_maps == 0


def test_config_survives_json():
    import json

    for config in PRESETS.values():
        assert IrisConfig(**json.loads(json.dumps(config.to_dict()))) == config
