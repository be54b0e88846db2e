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


@dataclass(frozen=True)
class Contrast:
    """Mean and standard deviation of the grey value of each tissue: index → value."""

    tissue: np.ndarray  # sorted label values
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, tissue: np.ndarray) -> "Contrast":
        return cls(tissue, rng.uniform(0, 1, len(tissue)), rng.uniform(0, 0.1, len(tissue)) * rng.uniform(0, 1.5))

    def other(self, rng: np.random.Generator) -> "Contrast":
        """Of the query, given the reference's: the same, near it, or another."""
        u = rng.random()
        if u < SAME_CONTRAST:
            return replace(self, mean=self.mean + rng.normal(0, 0.02, len(self.mean)))
        if u < SAME_CONTRAST + NEAR_CONTRAST:
            return replace(self, mean=self.mean + rng.normal(0, 0.1, len(self.mean)))
        return Contrast.draw(rng, self.tissue)


def paint(rng: np.random.Generator, labels: Tensor, contrast: Contrast) -> Tensor:
    """Grey values (x, y, z) for labels; 0 beyond the field of view."""
    index = torch.from_numpy(np.searchsorted(contrast.tissue, labels.numpy()).clip(0, len(contrast.tissue) - 1))
    grain = torch.from_numpy(rng.standard_normal(labels.shape, np.float32))
    if rng.random() < 0.5:
        grain = blur(grain, (rng.uniform(0.4, 1.2),) * 3)
        grain /= grain.std()
    image = torch.from_numpy(contrast.mean.astype(np.float32))[index]
    image += torch.from_numpy(contrast.deviation.astype(np.float32))[index] * grain
    image *= 1 + rng.uniform(0, 0.15) * noise_field(rng, 1, int(rng.integers(4, 16)), tuple(labels.shape))[0]
    return blur(image, (rng.uniform(0.3, 0.9),) * 3)  # partial volume


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
