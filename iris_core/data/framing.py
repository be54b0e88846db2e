"""Where an episode looks: working spacing, windows and fields of view, drawn at random."""

from dataclasses import dataclass

import numpy as np

from iris_core.case import LabelClass
from iris_core.geometry import WorkingGrid, choose_spacing, extent, window_shape
from iris_core.model.iris import IrisConfig

WINDOWS = {1 / 2: 0.5, 2 / 3: 0.35, 1: 0.15}  # edge as a share of the model's window: small ones are cheap
SPACING_JITTER = (0.65, 1.5)  # around the automatic choice
QUERY_ELSEWHERE = 0.25  # share of query windows placed anywhere, as a sliding window is
OWN_FIELD_OF_VIEW = 0.5  # share of windows that count as the whole scan, as if it had been cropped


@dataclass(frozen=True)
class Window:
    """``start`` and ``shape`` in voxels of the grid; box (2, 3): its corners in what counts as the field of view."""

    grid: WorkingGrid
    start: np.ndarray
    shape: np.ndarray
    box: np.ndarray


def draw_scale(
    rng: np.random.Generator,
    labels: np.ndarray,
    spacing_mm: tuple[float, ...],
    classes: list[LabelClass],
    config: IrisConfig,
    overview: bool,
) -> tuple[float, int]:
    """Working spacing in mm and edge of the windows in voxels, for classes of a reference.

    overview: the whole field of view in one window, if that is coarser: what locating looks at.
    """
    edge = (
        round(rng.choice(list(WINDOWS), p=list(WINDOWS.values())) * config.window / config.multiple) * config.multiple
    )
    spacing = choose_spacing((c.mask(labels) for c in classes), spacing_mm, config.window)
    if overview:
        spacing = max(spacing, float(np.max(np.array(labels.shape) * spacing_mm)) / edge)
    return float(spacing * np.exp(rng.uniform(*np.log(SPACING_JITTER)))), edge


def draw_window(
    rng: np.random.Generator, grid: WorkingGrid, mask: np.ndarray, edge: int, config: IrisConfig, query: bool
) -> Window:
    """A window around a mask on the volume's grid, or (some queries) anywhere."""
    shape = np.array(window_shape(grid.working_shape, edge, config.multiple))
    start = _start(rng, grid, mask, shape, query)
    if rng.random() >= OWN_FIELD_OF_VIEW:
        return Window(grid, start, shape, grid.box(tuple(start), tuple(shape)).numpy())
    low, high = np.maximum(start, 0), np.minimum(start + shape, grid.working_shape)
    box = np.stack([start - low, start + shape - low]) / np.maximum(high - low, 1) * 2 - 1
    return Window(grid, start, shape, box.astype(np.float32))


def _start(rng, grid: WorkingGrid, mask: np.ndarray, shape: np.ndarray, query: bool) -> np.ndarray:
    slack = np.array(grid.working_shape) - shape
    if query and (not mask.any() or rng.random() < QUERY_ELSEWHERE):
        return np.array([rng.integers(s + 1) if s > 0 else s // 2 for s in slack])
    first, last = extent(mask)
    scale = np.array(grid.spacing_mm) / grid.working_mm
    low, high = first * scale, last * scale
    centre = (low + high) / 2
    if (high - low > shape).any():  # larger than a window: somewhere on it
        inside = np.argwhere(mask)
        centre = inside[rng.integers(len(inside))] * scale
    room = np.clip((shape - (high - low)) / 2, shape * 0.1, shape * 0.4)
    start = np.round(centre - shape / 2 + rng.uniform(-1, 1, 3) * room).astype(int)
    return np.where(slack > 0, np.clip(start, 0, np.maximum(slack, 0)), slack // 2)


def near(labels: np.ndarray, anchor: LabelClass, present: list[LabelClass]) -> list[LabelClass]:
    """Classes inside the anchor's extent, widened by half: those a window around it is likely to hold."""
    if len(present) <= 2:
        return present
    first, last = extent(anchor.mask(labels))
    margin = (last - first) // 2 + 1
    region = labels[tuple(slice(max(0, a - m), b + m) for a, b, m in zip(first, last, margin, strict=True))]
    values = set(np.unique(region).tolist())
    return [c for c in present if values.intersection(c.members)]
