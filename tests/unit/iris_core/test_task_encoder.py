"""The fast low-resolution forms equal the paper's Eq. 2-4 taken literally at full resolution."""

import torch
import torch.nn.functional as F
from einops import rearrange

from iris_core.model.blocks import coordinates
from iris_core.model.task_encoder import ContextStream, masked_mean, moments, pull_down


def close(a, b) -> bool:
    return bool(((a - b).abs().max() / b.abs().max()).detach() < 1e-4)


def test_foreground_stream_equals_eq_2():
    torch.manual_seed(0)
    features, masks = torch.randn(2, 16, 4, 6, 5), (torch.rand(2, 3, 16, 24, 20) > 0.7).float()
    masks[0, 1] = 0
    masks[0, 1, 3, 5, 7] = 1  # a structure of one voxel survives
    literal = F.interpolate(features, size=masks.shape[2:], mode="trilinear")
    literal = torch.stack(
        [(literal * m[:, None]).sum((2, 3, 4)) / m.sum((1, 2, 3))[:, None] for m in masks.unbind(1)], 1
    )
    assert close(masked_mean(features, pull_down(masks, features.shape[2:])), literal)


def test_context_stream_equals_eq_3_and_4():
    torch.manual_seed(0)
    stream = ContextStream(channels=128, stride=4, tokens=5, heads=4).eval()
    features, mask = torch.randn(2, 128, 3, 4, 2), torch.rand(2, 12, 16, 8)
    r = stream.stride
    shuffled = rearrange(features, "b (c i j k) x y z -> b c (x i) (y j) (z k)", i=r, j=r, k=r)  # PixelShuffle
    mixed = stream.mix(torch.cat([shuffled, mask[:, None]], 1))
    literal = rearrange(mixed, "b c (x i) (y j) (z k) -> b (c i j k) x y z", i=r, j=r, k=r)  # PixelUnshuffle
    assert close(stream.mixed(features, mask), literal)


def test_moments_are_those_of_the_voxels():
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[0, 0, 4:6, 4:6, 4:6] = 1
    box = torch.tensor([[[-1.0] * 3, [1.0] * 3]])
    points = rearrange(coordinates(box, (8, 8, 8)), "1 c x y z -> c (x y z)")[:, mask.flatten() > 0]
    found = moments(mask, box)[0, 0]
    assert torch.allclose(found[1:4], points.mean(1), atol=1e-6)
    assert torch.allclose(found[4], (points[0] * points[0]).mean(), atol=1e-6)
    assert torch.allclose(found[5], (points[0] * points[1]).mean(), atol=1e-6)


def test_no_full_resolution_feature_volume_is_made(tiny):
    """The largest tensor of encode_task is far below C × D × H × W."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    edge, k = 64, 4
    image, masks = torch.randn(1, 1, edge, edge, edge), torch.rand(1, k, edge, edge, edge)
    box = torch.tensor([[[-1.0] * 3, [1.0] * 3]])
    with torch.inference_mode():
        features = tiny.encode_image(image)
        with Watch():
            tiny.encode_task(features, masks, box)
    assert largest <= k * edge**3  # the masks themselves; C × D × H × W would be 64 × 64³
