"""Building blocks shared by the three parts of the model."""

import functools
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def exact(function):
    """Run a function in float32 whatever the autocast around it: moments and masked sums do not bear bfloat16."""

    @functools.wraps(function)
    def inner(*args, **kwargs):
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return inner


class InstanceNorm(nn.Module):
    """Instance normalisation that keeps channels_last_3d.

    For one image it is batch normalisation without running statistics, whose backward pass is 4 to 16 times faster
    on a CPU than group or instance normalisation's (32 × 48³, bfloat16: 7 ms against 62 and 11).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            # not F.batch_norm: that refuses the single voxel a very small scan leaves at the bottleneck
            return torch.batch_norm(x, self.weight, self.bias, None, None, True, 0.0, 1e-5, False)
        return F.group_norm(x, x.shape[1], self.weight, self.bias)


class Conv3d(nn.Conv3d):
    """A 3×3×3 convolution, in float32 where the first axis has 2 voxels.

    There oneDNN's bfloat16 weight gradient (torch 2.13, CPU) leaves memory uninitialised: NaN now and then.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] == 2:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class ResidualBlock(nn.Module):
    """Two 3×3×3 convolutions with instance norm and a shortcut; the first may change width and stride."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv3d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = InstanceNorm(channels)
        self.conv2 = Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = InstanceNorm(channels)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv3d(in_channels, channels, stride, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x), 0.01)


class Attention(nn.Module):
    """Pre-norm multi-head attention with a residual connection: x + Attn(x, source)."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.source_norm = nn.LayerNorm(source_width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(source_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        query = rearrange(self.to_query(self.norm(x)), "b n (h c) -> b h n c", h=self.heads)
        key, value = rearrange(
            self.to_key_value(self.source_norm(source)), "b n (two h c) -> two b h n c", two=2, h=self.heads
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(rearrange(attended, "b h n c -> b n (h c)"))


class MLP(nn.Module):
    """Pre-norm two-layer perceptron with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def coordinates(box: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Voxel centres of windows (b, 2, 3) [lower, upper corner] as (b, 3, x, y, z); the field of view is [-1, 1]."""
    axes = []
    for axis, n in enumerate(shape):
        fraction = (torch.arange(n, device=box.device, dtype=box.dtype) + 0.5) / n
        line = box[:, 0, axis, None] + (box[:, 1, axis] - box[:, 0, axis])[:, None] * fraction
        axes.append(line.reshape(-1, *(n if a == axis else 1 for a in range(3))).expand(-1, *shape))
    return torch.stack(axes, 1)


def inside(box: Tensor, shape: tuple[int, ...]) -> Tensor:
    """1 where a voxel centre of the window lies in the field of view, else 0: (b, 1, x, y, z)."""
    return (coordinates(box, shape).abs() <= 1).all(1, keepdim=True).to(box.dtype)


def fourier(points: Tensor, bands: int = 4) -> Tensor:
    """Sines and cosines of coordinates, (..., 3) → (..., 6 · bands)."""
    angles = points[..., None] * (math.pi / 2 * 2.0 ** torch.arange(bands, device=points.device, dtype=points.dtype))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
