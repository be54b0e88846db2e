"""What is compared: how each place's neighbours differ from one another, and its grey value among those around it.

The first (MIND-SSC: Heinrich et al., MICCAI 2013) looks alike in any contrast. The second is finer, and counts only
where both images turn out to have one contrast: see refine.py.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.lattice import Lattice, smoothed, spanning

CHANNELS = 12  # of the descriptors; one more is the grey value


@dataclass(frozen=True)
class Scan:
    """An image to register. image (x, y, z): normalised. spacing_mm: voxel size along each axis. view_mm (2, 3): lower
    and upper corner of what was scanned, from the image's middle; None where that is the whole image."""

    image: Tensor
    spacing_mm: tuple[float, float, float]
    view_mm: Tensor | None = None

    @property
    def view(self) -> Tensor:
        """(2, 3) in mm."""
        half = torch.tensor([[n * s / 2 for n, s in zip(self.image.shape, self.spacing_mm, strict=True)]])
        whole = torch.cat([-half, half])
        if self.view_mm is None:
            return whole
        return torch.stack([torch.maximum(whole[0], self.view_mm[0]), torch.minimum(whole[1], self.view_mm[1])])


@dataclass(frozen=True)
class Described:
    """values (1, 12 + 1, *lattice.shape): descriptors in [0, 1], grey value; view (2, 3): what was scanned, in mm."""

    values: Tensor
    lattice: Lattice
    view: Tensor

    def valid(self) -> Tensor:
        """1 where something was scanned, (1, 1, …)."""
        low, high = (corner.to(self.values)[:, None, None, None] for corner in self.view)
        places = self.lattice.places(self.values)
        return ((places >= low) & (places <= high)).all(1, keepdim=True).float()

    def at(self, times: int) -> "Described":
        """On a lattice that is coarser by a whole number: means of what was scanned."""
        if times == 1:
            return self
        valid, lattice = self.valid(), self.lattice.coarser(times)
        ends = [m * times - n for m, n in zip(lattice.shape, self.lattice.shape, strict=True)]
        padding = (0, ends[2], 0, ends[1], 0, ends[0])
        share = F.avg_pool3d(F.pad(valid, padding), times).clamp_min(1e-3)
        return Described(F.avg_pool3d(F.pad(self.values * valid, padding), times) / share, lattice, self.view)


def describe(scan: Scan, cell_mm: float, low_mm: Tensor | None = None, high_mm: Tensor | None = None) -> Described:
    """A scan, or the box of it between two corners (3,), in cells of ``cell_mm``."""
    low, high = scan.view if low_mm is None else (low_mm, high_mm)
    lattice = spanning(low, high, cell_mm)
    image = lattice.finer().resample(scan.image, scan.spacing_mm)[None, None].float()
    return Described(F.avg_pool3d(torch.cat([_self_similarity(image), image], 1), 2), lattice, scan.view)


def _self_similarity(image: Tensor) -> Tensor:
    """(1, 1, …) → (1, 12, …) in [0, 1], from neighbours at two voxels' distance."""
    padded, shape = F.pad(image, (2,) * 6, mode="replicate"), image.shape[2:]
    sides = (-2, 0, 0), (2, 0, 0), (0, -2, 0), (0, 2, 0), (0, 0, -2), (0, 0, 2)
    near = [padded[(..., *(slice(2 + o, 2 + o + n) for o, n in zip(side, shape, strict=True)))] for side in sides]
    pairs = [(a, b) for a, b in combinations(range(6), 2) if a // 2 != b // 2]  # of neighbours at a right angle
    distance = smoothed(torch.cat([(near[a] - near[b]) ** 2 for a, b in pairs], 1))
    distance -= distance.amin(1, keepdim=True)
    noise = distance.mean(1, keepdim=True)
    overall = noise.mean()
    noise = noise.clamp(1e-3 * overall, 1e3 * overall).clamp_min(1e-12)
    return torch.exp(-distance / noise)


def standing_out(described: Described, valid: Tensor) -> Tensor:
    """Grey values less their neighbourhood's mean, by its standard deviation: (1, 1, …). Products of two images' are
    local correlations."""
    grey = described.values[:, CHANNELS:]

    def mean(values: Tensor) -> Tensor:
        return smoothed(smoothed(smoothed(values)))

    share = mean(valid).clamp_min(1e-3)
    apart = (grey - mean(grey * valid) / share) * valid
    spread = mean(apart**2) / share
    return (apart / (spread + 0.01 * spread.mean() + 1e-8).sqrt()).clamp(-3, 3)
