"""What is compared: how each place's neighbours differ from one another, and its grey value among those around it.

The first (MIND-SSC: Heinrich et al., MICCAI 2013) looks alike in any contrast. The second is finer, and counts only
where both images turn out to have one contrast: see refine.py.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.registration.lattice import Lattice, smoothed, spanning

CHANNELS = 12  # of the descriptors; one more is the grey value
SLAB = 8  # voxels


@dataclass(frozen=True)
class Scan:
    """An image to register. image (x, y, z): normalised. spacing_mm: voxel size along each axis. view_mm (2, 3): lower
    and upper corner of what was scanned, from the image's middle; None where that is the whole image."""

    image: Tensor
    spacing_mm: tuple[float, ...]
    view_mm: Tensor | None = None

    def to(self, device: torch.device) -> "Scan":
        return replace(self, image=self.image.to(device))

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
        corners = self.view.to(self.values)[:, :, None, None, None]
        places = self.lattice.places(self.values.device)
        return ((places >= corners[0]) & (places <= corners[1])).all(1, keepdim=True).float()

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
    low, high = scan.view if low_mm is None or high_mm is None else (low_mm, high_mm)
    lattice = spanning(low, high, cell_mm)
    image = lattice.finer().resample(scan.image, scan.spacing_mm)[None, None].float()
    return Described(torch.cat([_self_similarity(image), F.avg_pool3d(image, 2)], 1), lattice, scan.view)


def _self_similarity(image: Tensor) -> Tensor:
    """(1, 1, x, y, z), even edges → (1, 12, x/2, y/2, z/2) in [0, 1]: how neighbours at two voxels' distance and at a
    right angle differ. Slab by slab: what fits a processor's cache takes a third of the time."""
    padded = F.pad(image, (3,) * 6, mode="replicate")[0, 0]
    firsts = range(0, image.shape[2], SLAB)

    def distances(first: int) -> Tensor:
        """(12, …) of a slab, less the smallest of each place."""
        part = padded[first : first + SLAB + 6]
        found = torch.cat([_of_planes(part, i, j) for i, j in ((0, 1), (0, 2), (1, 2))])
        return found - found.amin(0)

    overall = torch.stack([distances(first).mean() for first in firsts[::4]]).mean()
    described = []
    for first in firsts:
        distance = distances(first)
        noise = distance.mean(0).clamp(1e-3 * overall, 1e3 * overall).clamp_min(1e-12)
        described.append(F.avg_pool3d(torch.exp(-distance / noise)[None], 2))
    return torch.cat(described, 2)


def _of_planes(padded: Tensor, i: int, j: int) -> Tensor:
    """The four distances between neighbours along two axes, (4, …), of a volume with three voxels more at every end.

    Two that lie across from one another differ as two others do, elsewhere: one field of differences serves both.
    """
    inner = [n - 6 for n in padded.shape]
    found = []
    for turned in (True, False):  # the neighbours' difference is that of axes i and j, or their sum
        here, there = ([slice(2, n + 4) for n in inner] for _ in range(2))
        here[i], there[i] = slice(0, inner[i] + 4), slice(2, inner[i] + 6)
        lower, upper = slice(0, inner[j] + 4), slice(2, inner[j] + 6)
        here[j], there[j] = (upper, lower) if turned else (lower, upper)
        field = (padded[tuple(there)] - padded[tuple(here)]) ** 2
        for axis in range(3):  # means of 3 × 3 × 3
            n = field.shape[axis] - 2
            field = (field.narrow(axis, 0, n) + field.narrow(axis, 1, n) + field.narrow(axis, 2, n)) / 3
        for of_i, of_j in ((2, 2), (0, 0)) if turned else ((2, 0), (0, 2)):
            found.append(field.narrow(i, of_i, inner[i]).narrow(j, of_j, inner[j]))
    return torch.stack(found)


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
