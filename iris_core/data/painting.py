"""Grey values: contrasts of tissues, curves, and what scanners do to an image."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAME_CONTRAST, NEAR_CONTRAST = 0.5, 0.3  # of query and reference; else independent


def noise_field(rng: np.random.Generator, channels: int, points: int, shape: tuple[int, ...]) -> Tensor:
    """Smooth normal noise (channels, *shape), from ``points`` control points along each axis."""
    control = torch.from_numpy(rng.normal(size=(1, channels, points, points, points)).astype(np.float32))
    return F.interpolate(control, size=shape, mode="trilinear", align_corners=True)[0]


def octaves(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Noise (*shape) of mean 0 and deviation 1 with detail of many sizes at once, as tissue has.

    A sum over scales that double, from two voxels to a quarter of the longest edge. A random factor from each to the
    next says whether the fine or the coarse is the stronger.
    """
    roll_off = float(np.exp(rng.uniform(-1, 1) * np.log(2)))
    total = torch.zeros(1, 1, 1, 1, 1)
    for scale in (2**k for k in range(max(1, int(np.log2(max(shape) / 4))), 0, -1)):  # coarse first: few voxels
        size = tuple(-(-n // scale) for n in shape)
        total = roll_off * F.interpolate(total, size=size, mode="trilinear", align_corners=False)
        total += torch.from_numpy(rng.standard_normal(size, np.float32))
    total = F.interpolate(total, size=shape, mode="trilinear", align_corners=False)[0, 0]
    return (total - total.mean()) / total.std().clamp_min(1e-6)


@dataclass(frozen=True)
class Contrast:
    """The grey value of each tissue: its mean, its standard deviation, and how fine its texture is."""

    tissue: np.ndarray  # sorted label values
    mean: np.ndarray
    deviation: np.ndarray
    fineness: np.ndarray  # share of the variance that is noise from voxel to voxel; the rest is coarser

    @classmethod
    def draw(cls, rng: np.random.Generator, tissue: np.ndarray) -> "Contrast":
        n = len(tissue)
        return cls(tissue, rng.uniform(0, 1, n), rng.uniform(0, 0.1, n) * rng.uniform(0, 1.5), rng.uniform(0, 1, n))

    def other(self, rng: np.random.Generator) -> "Contrast":
        """Of the query, given the reference's: the same, near it, or another."""
        u = rng.random()
        if u < SAME_CONTRAST:
            return replace(self, mean=self.mean + rng.normal(0, 0.02, len(self.mean)))
        if u < SAME_CONTRAST + NEAR_CONTRAST:
            return replace(self, mean=self.mean + rng.normal(0, 0.1, len(self.mean)))
        return Contrast.draw(rng, self.tissue)

    def rows(self) -> np.ndarray:
        """(tissues, 3): the numbers that ``textured`` takes of each."""
        fine, coarse = np.sqrt(self.fineness), np.sqrt(1 - self.fineness)
        return np.stack([self.mean, self.deviation * fine, self.deviation * coarse], 1).astype(np.float32)


def paint(rng: np.random.Generator, labels: Tensor, contrast: Contrast) -> Tensor:
    """Grey values (x, y, z) for labels, all of which the contrast knows."""
    index = np.searchsorted(contrast.tissue, labels.numpy())
    return textured(rng, *(torch.from_numpy(column[index]) for column in contrast.rows().T))


def textured(rng: np.random.Generator, mean: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
    """Grey values (x, y, z) of a mean with noise of two kinds, given the deviation of each at every voxel."""
    shape = tuple(mean.shape)
    image = mean + fine * torch.from_numpy(rng.standard_normal(shape, np.float32)) + coarse * octaves(rng, shape)
    image *= 1 + rng.uniform(0, 0.15) * noise_field(rng, 1, int(rng.integers(4, 16)), shape)[0]
    return blur(image, (rng.uniform(0.3, 0.9),) * 3)  # a scanner's


def recolour(rng: np.random.Generator, knots: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A random curve of grey values over [-3, 3], often rising, as (x, y) for np.interp."""
    x = np.linspace(-3, 3, knots)
    y = rng.normal(0, 1, knots)
    if rng.random() < 0.5:
        y = np.sort(y)
    return x, x + rng.uniform(0, 1) * (y * 1.5 - x)


def curved(image: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """Grey values through a curve, straight between its knots."""
    return torch.from_numpy(np.interp(image.numpy(), x, y).astype(np.float32))


def blur(volume: Tensor, sigma: tuple[float, float, float]) -> Tensor:
    """Gaussian, σ in voxels per axis."""
    for axis, s in enumerate(sigma):
        if s < 0.2 or volume.shape[axis] < 2:
            continue
        reach = max(1, min(int(3 * s + 0.5), volume.shape[axis] - 1))
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / s) ** 2)
        line = (line / line.sum())[None, None]
        moved = volume.movedim(axis, -1)
        rows = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (reach, reach), mode="replicate")
        volume = F.conv1d(rows, line).reshape(moved.shape).movedim(-1, axis)
    return volume


def artefacts(rng: np.random.Generator, image: Tensor, outside: Tensor) -> Tensor:
    """What scanners do: bias field, gamma, thick slices, motion, blur, noise; normalised as scans are."""
    shape = tuple(image.shape)
    low, high = _percentiles(image[~outside] if not outside.all() else image.flatten())
    image = ((image - low) / max(high - low, 1e-6)).clamp_(-0.2, 1.2)
    if rng.random() < 0.5:
        image = image * torch.exp(rng.uniform(0, 0.5) * noise_field(rng, 1, int(rng.integers(2, 5)), shape)[0])
    if rng.random() < 0.3:
        image = image.clamp_min(0) ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.3:
        axis, thick = int(rng.integers(3)), int(rng.integers(2, 7))
        if shape[axis] > 2 * thick:
            order = [a for a in range(3) if a != axis] + [axis]
            rows = image.permute(order).reshape(1, -1, shape[axis])
            slices = F.avg_pool1d(rows, thick, ceil_mode=True)
            mode = "nearest" if rng.random() < 0.3 else "linear"
            rows = F.interpolate(slices, size=shape[axis], mode=mode)
            image = rows.reshape([shape[a] for a in order]).permute(*np.argsort(order).tolist())
    if rng.random() < 0.1:
        axis, shift = int(rng.integers(3)), int(rng.integers(1, 6))
        ghost = torch.roll(image, shift, axis)
        image = torch.lerp(image, ghost, rng.uniform(0.1, 0.4))
    if rng.random() < 0.3:
        image = blur(image, tuple(rng.uniform(0, 1.2, 3)))
    if rng.random() < 0.6:
        image = image + rng.uniform(0, 0.1) * torch.from_numpy(rng.standard_normal(shape, np.float32))
    if not outside.all():
        inner = image[~outside]
        image = (image - inner.mean()) / inner.std().clamp_min(1e-3)
    image = image * float(np.exp(rng.normal(0, 0.15))) + float(rng.normal(0, 0.2))  # of a window, not of a volume
    return image.clamp_(-5, 5).masked_fill(outside, 0.0)


def _percentiles(values: Tensor) -> tuple[float, float]:
    few = values[:: max(1, len(values) // 20_000)]
    return tuple(float(v) for v in torch.quantile(few, torch.tensor([0.02, 0.98])))
