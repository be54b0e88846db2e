"""The working grid: orientation, resampling, windows. Each step knows its inverse.

Everything here is separable: one small matrix per axis does cropping, resampling and padding at once,
so no step allocates more than its output and every step can be read as an equation.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iris_core.case import Case, InputError

SURROUNDINGS = 3.0  # window edge / structure's extent. Ours: 2 loses context, 4 loses detail (weights/TRAINING.md)
VOXELS_ACROSS = 5.0  # voxels across the typical thickness of a structure. Ours
LARGEST_WINDOW = 4 / 3  # of the model's. Ours: 128³ in one window of 128 is 3.4 × fewer voxels than in eight of 96
MAX_WORKING_VOXELS = 2**30


@dataclass(frozen=True)
class Orientation:
    """Axis permutation and flips that bring an array closest to RAS+."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]  # per output axis

    @classmethod
    def of(cls, affine: np.ndarray) -> "Orientation":
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        axes = max(
            itertools.permutations(range(3)),
            key=lambda p: sum(abs(directions[world, voxel]) for world, voxel in enumerate(p)),
        )
        return cls(axes, tuple(bool(directions[world, voxel] < 0) for world, voxel in enumerate(axes)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """File order (x, y, z) → RAS+ order (a view)."""
        array = np.transpose(array, self.axes)
        return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)]

    def invert(self, array: np.ndarray) -> np.ndarray:
        """RAS+ order → file order (a view)."""
        array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)]
        return np.transpose(array, np.argsort(self.axes))

    def affine(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The affine of the array in RAS+ order. affine, shape: in file order."""
        order = np.zeros((4, 4))
        order[3, 3] = 1
        for axis, (source, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            order[source, axis] = -1 if flip else 1
            order[source, 3] = shape[source] - 1 if flip else 0
        return affine @ order


def axis_matrix(n_in: int, positions: np.ndarray, width: float = 1.0, outside: str = "edge") -> Tensor:
    """Linear interpolation of ``n_in`` samples at ``positions`` (in samples) as a matrix (len(positions), n_in).

    width > 1 widens the triangle filter, so that downsampling averages instead of skipping.
    outside: 'edge' repeats the border; 'zero' makes rows beyond the border (by more than half a sample) zero.
    """
    clamped = np.clip(positions, 0, n_in - 1)
    weights = np.clip(1 - np.abs(clamped[:, None] - np.arange(n_in)[None]) / max(width, 1.0), 0, None)
    weights /= weights.sum(1, keepdims=True)
    if outside == "zero":
        weights[(positions < -0.5) | (positions > n_in - 0.5)] = 0
    return torch.from_numpy(weights.astype(np.float32))


def apply_matrices(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix per spatial axis to (..., x, y, z), numbers or a mask."""
    parts = []
    for axis, matrix in zip((-3, -2, -1), matrices, strict=True):
        used = matrix.any(0).nonzero().flatten()  # a window needs only a part of the volume
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        volume = volume.narrow(axis, low, high - low)
        parts.append((axis, matrix[:, low:high]))
    volume = volume if volume.is_floating_point() else volume.float()
    for axis, matrix in parts:
        volume = torch.tensordot(volume, matrix.to(volume), dims=([axis], [1])).movedim(-1, axis)
    return volume


@dataclass(frozen=True)
class WorkingGrid:
    """An isotropic grid over the field of view of one RAS+ volume, both centred on the same point.

    shape, spacing_mm: of the volume, in RAS+ order. working_mm: the grid's voxel size, one number.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    working_mm: float

    def __post_init__(self) -> None:
        if not self.fits(self.working_mm):
            raise InputError(
                f"a field of view of {[round(n * s) for n, s in zip(self.shape, self.spacing_mm, strict=True)]} mm"
                f" needs {self.working_shape} voxels at the task's spacing of {self.working_mm:.2f} mm,"
                f" more than {MAX_WORKING_VOXELS}; crop the scan around the structures"
            )

    @property
    def working_shape(self) -> tuple[int, ...]:
        return self._edges(self.working_mm)

    def fits(self, working_mm: float) -> bool:
        """Whether a grid of this or another voxel size over the same volume is not too large."""
        return np.prod([float(n) for n in self._edges(working_mm)]) <= MAX_WORKING_VOXELS

    def _edges(self, working_mm: float) -> tuple[int, ...]:
        return tuple(max(1, round(n * s / working_mm)) for n, s in zip(self.shape, self.spacing_mm, strict=True))

    def positions(self, axis: int, working: np.ndarray) -> np.ndarray:
        """Working-grid index → index in the volume, along one axis."""
        step = self.working_mm / self.spacing_mm[axis]
        return (working + 0.5 - self.working_shape[axis] / 2) * step + self.shape[axis] / 2 - 0.5

    def window_matrices(self, start: tuple[float, ...], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices that cut the window ``start`` (working-grid index) + ``shape`` from the volume; zeros outside."""
        return tuple(
            axis_matrix(
                self.shape[axis],
                self.positions(axis, start[axis] + np.arange(shape[axis])),
                self.working_mm / self.spacing_mm[axis],
                "zero",
            )
            for axis in range(3)
        )

    def to_working(self, volume: Tensor) -> Tensor:
        """(..., x, y, z) of the volume → (..., *working_shape)."""
        return apply_matrices(volume, self.window_matrices((0, 0, 0), self.working_shape))

    def working(self, axis: int, positions: np.ndarray) -> np.ndarray:
        """Index in the volume → working-grid index, along one axis: the inverse of ``positions``."""
        step = self.spacing_mm[axis] / self.working_mm
        return (positions + 0.5 - self.shape[axis] / 2) * step + self.working_shape[axis] / 2 - 0.5

    def centre_mm(self, start: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
        """The middle of a window, from the middle of the volume."""
        return tuple(
            (first + n / 2 - whole / 2) * self.working_mm
            for first, n, whole in zip(start, shape, self.working_shape, strict=True)
        )

    def box(self, start: tuple[float, ...], shape: tuple[int, ...]) -> Tensor:
        """Lower and upper corner of a window, (2, 3), where the field of view spans [-1, 1]."""
        start, size = np.asarray(start, float), np.asarray(self.working_shape, float)
        corners = np.stack([start, start + np.asarray(shape)]) / size * 2 - 1
        return torch.from_numpy(corners.astype(np.float32))


@dataclass(frozen=True)
class Scores:
    """Values (K, x, y, z) of K classes on the part of a working grid that begins at ``start``; none elsewhere."""

    grid: WorkingGrid
    start: tuple[int, ...]
    values: Tensor

    def back_matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """To the volume's own grid; 0 where there are none."""
        grid = self.grid
        at = [grid.working(axis, np.arange(n)) for axis, n in enumerate(grid.shape)]
        return self._matrices(at, [s / grid.working_mm for s in grid.spacing_mm])

    def on(self, grid: WorkingGrid, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """The values (K, *shape) on a part of another working grid over the same volume; 0 where there are none."""
        at = [
            self.grid.working(axis, grid.positions(axis, first + np.arange(n)))
            for axis, (first, n) in enumerate(zip(start, shape, strict=True))
        ]
        return apply_matrices(self.values, self._matrices(at, [grid.working_mm / self.grid.working_mm] * 3))

    def _matrices(self, at: list[np.ndarray], widths: list[float]) -> tuple[Tensor, Tensor, Tensor]:
        """To indices of the working grid, one array an axis; what lies past the grid's border is that."""
        ends = zip(self.values.shape[1:], self.start, self.grid.working_shape, at, widths, strict=True)
        return tuple(
            axis_matrix(n, index.clip(0, whole - 1) - first, width, "zero") for n, first, whole, index, width in ends
        )


def labels_back(
    scores: Scores, values: tuple[int, ...], overlapping: bool = False, threshold: float = 0.5
) -> np.ndarray:
    """Scores (logits) → labels on the volume's grid: a class is present where its probability is above ``threshold``.

    The class with the highest score of those wins, else background; ``overlapping`` classes (regions) are painted
    one over the other in their order instead, as nnU-Net does. Works slab by slab along the first axis, so K float
    volumes at the volume's own resolution never exist at once. Returns int32 (x, y, z) in RAS+ order.
    """
    matrices = scores.back_matrices()
    xs, ys, zs = map(spanned, matrices)  # elsewhere there is background
    along_x, along_y, along_z = (m[rows] for m, rows in zip(matrices, (xs, ys, zs), strict=True))
    lookup = torch.tensor([0, *values], dtype=torch.int32)
    labels = torch.zeros(scores.grid.shape, dtype=torch.int32)
    least = math.log(threshold / (1 - threshold))
    slab = max(1, 2**24 // max(1, len(values) * len(along_y) * len(along_z)))
    for first in range(0, len(along_x), slab):
        part = apply_matrices(scores.values, (along_x[first : first + slab], along_y, along_z))
        if overlapping:
            rank = torch.arange(1, len(values) + 1)[:, None, None, None]
            winner = ((part > least) * rank).amax(0)
        else:
            best, index = part.max(0)
            winner = torch.where(best > least, index + 1, 0)
        labels[xs.start + first : xs.start + first + part.shape[1], ys, zs] = lookup[winner]
    return labels.numpy()


def spanned(matrix: Tensor) -> slice:
    """From the first row to the last that is not zero."""
    used = matrix.any(1).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def coarsen(image: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, ...], finest_mm: float):
    """Resample so that no axis is finer than ``finest_mm``: image, labels (the strongest value wins), spacing in mm."""
    target = [max(s, finest_mm) for s in spacing_mm]
    counts = [max(1, round(n * s / t)) for n, s, t in zip(image.shape, spacing_mm, target, strict=True)]
    if tuple(counts) == image.shape:
        return image, labels, spacing_mm
    steps = [n / m for n, m in zip(image.shape, counts, strict=True)]  # the field of view stays the same
    matrices = tuple(
        axis_matrix(n, (np.arange(m) + 0.5) * step - 0.5, step)
        for n, m, step in zip(image.shape, counts, steps, strict=True)
    )
    best, winner = torch.zeros(counts), torch.zeros(counts, dtype=torch.int32)
    for value in np.unique(labels):
        share = apply_matrices(torch.from_numpy((labels == value).astype(np.float32)), matrices)
        winner[share > best] = int(value)
        best = torch.maximum(best, share)
    smooth = apply_matrices(torch.from_numpy(np.ascontiguousarray(image)), matrices).numpy()
    spacing = tuple(float(s * step) for s, step in zip(spacing_mm, steps, strict=True))
    return smooth, winner.numpy().astype(labels.dtype), spacing


def oriented(case: Case, array: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """An array of the case in RAS+ order, and the voxel size in mm along its axes."""
    orientation = Orientation.of(case.affine)
    return orientation.apply(array), tuple(float(s) for s in case.spacing_mm[list(orientation.axes)])


def extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index + 1 of a non-empty mask along each axis."""
    ranges = [np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]
    return np.array([r[0] for r in ranges]), np.array([r[-1] + 1 for r in ranges])


def choose_spacing(masks: Iterable[np.ndarray], spacing_mm: tuple[float, ...], window: int) -> float:
    """The working spacing in mm of a task, from its reference (`--grid auto`; ours, the paper has 1.5 mm).

    masks: one non-empty boolean volume a class. The structures with their surroundings (SURROUNDINGS × their
    extent, or the whole field of view if that is less) fill a window of ``window`` voxels; but VOXELS_ACROSS voxels
    lie across a structure of typical thickness (2 × volume / surface, median over classes), and never finer than
    the scan's finest axis.
    """
    spacing = np.asarray(spacing_mm)
    firsts, lasts, thickness = [], [], []
    for mask in masks:
        first, last = extent(mask)
        firsts.append(first)
        lasts.append(last)
        thickness.append(_thickness_mm(mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], spacing))
    span = (np.max(lasts, 0) - np.min(firsts, 0)) * spacing
    fill = np.minimum(span * SURROUNDINGS, np.asarray(mask.shape) * spacing).max() / window
    return float(max(min(fill, np.median(thickness) / VOXELS_ACROSS), spacing.min()))


def _thickness_mm(mask: np.ndarray, spacing: np.ndarray) -> float:
    padded = np.pad(mask, 1).astype(np.int8)
    faces = [np.abs(np.diff(padded, axis=a)).sum() * spacing.prod() / spacing[a] for a in range(3)]
    surface = sum(faces) / 1.5  # voxel faces overstate a smooth surface by 3/2 on average
    return 2 * mask.sum() * spacing.prod() / surface


def window_shape(working_shape: tuple[int, ...], window: int, multiple: int) -> tuple[int, ...]:
    """The smallest shape that holds the volume, in multiples the network takes, at most ``window`` along an axis."""
    return tuple(min(window, -(-n // multiple) * multiple) for n in working_shape)


def window_shapes(working_shape, lengths, window: int, multiple: int) -> tuple[int, ...]:
    """Shape of the windows that look at ``lengths`` voxels of a working grid: what is a little longer than a window is
    seen whole, at once, instead of in two halves."""
    largest = int(window * LARGEST_WINDOW) // multiple * multiple
    edges = [largest if n <= largest else window for n in lengths]
    return tuple(window_shape((n,), e, multiple)[0] for n, e in zip(working_shape, edges, strict=True))


def window_starts(length: int, window: int, overlap: float = 0.5, multiple: int = 1) -> list[int]:
    """First indices of windows that cover ``length`` with at least ``overlap``, multiples of ``multiple``.

    A volume shorter than the window gets one window, centred on it (a negative start).
    """
    if length <= window:
        return [-((window - length) // 2 // multiple) * multiple]
    step = max(multiple, int(window * (1 - overlap)) // multiple * multiple)
    last = -(-(length - window) // multiple) * multiple
    count = -(-last // step) + 1
    return sorted({round(i * last / (count - 1) / multiple) * multiple for i in range(count)})
