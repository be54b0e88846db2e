"""Part 1: the residual UNet that sees references and queries alike (paper, section 3.1)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from iris_core.model.blocks import ResidualBlock


def folded(image: Tensor, stride: int) -> Tensor:
    """Image (b, 1, x, y, z) → (b, stride³, x/stride, …): its voxels as channels."""
    return rearrange(image, "b 1 (x i) (y j) (z k) -> b (i j k) x y z", i=stride, j=stride, k=stride)


class Encoder(nn.Module):
    """Image (b, 1, x, y, z) → one feature map a level, finest first.

    Level i has ``widths[i]`` channels at stride ``stem_stride · 2^i``. The stem folds stem_stride³ voxels into
    channels, so no voxel is skipped.
    """

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], stem_stride: int) -> None:
        super().__init__()
        self.stem_stride = stem_stride
        self.stem = nn.Conv3d(stem_stride**3, widths[0], 3, 1, 1, bias=False)
        self.levels = nn.ModuleList()
        for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
            first = ResidualBlock(widths[max(i - 1, 0)], width, stride=1 if i == 0 else 2)
            self.levels.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(n - 1))))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(folded(image, self.stem_stride).contiguous(memory_format=torch.channels_last_3d))
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class UpPath(nn.Module):
    """Bottleneck and skips → one feature map a level, coarsest (the bottleneck itself) first."""

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList()
        self.levels = nn.ModuleList()
        for fine, coarse in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True):
            self.ups.append(nn.Conv3d(coarse, fine, 1, bias=False))
            first = ResidualBlock(2 * fine, fine)
            self.levels.append(nn.Sequential(first, *(ResidualBlock(fine, fine) for _ in range(blocks - 1))))

    def forward(self, bottleneck: Tensor, skips: list[Tensor]) -> list[Tensor]:
        x, features = bottleneck, [bottleneck]
        for up, level, skip in zip(self.ups, self.levels, reversed(skips), strict=True):
            x = nn.functional.interpolate(up(x), size=skip.shape[2:], mode="trilinear")
            x = level(torch.cat([x, skip], 1))
            features.append(x)
        return features
