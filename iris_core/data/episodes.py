"""Episodes: one reference, one query, K binary masks (paper, section 3.4). Episode i depends on (seed, i) alone."""

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from iris_core.case import InputError, LabelClass
from iris_core.data.augment import augment
from iris_core.data.cache import CachedCase, read_case
from iris_core.geometry import WorkingGrid, apply_matrices, choose_spacing, extent, window_shape
from iris_core.model.iris import IrisConfig

MAX_CLASSES = 6  # an episode; memory and time grow with it
WINDOWS = (2 / 3, 5 / 6, 1)  # edge of an episode's windows, as a share of the model's: partial views, and cheaper
SPACING_JITTER = (0.8, 1.25)  # around the automatic choice
QUERY_ELSEWHERE = 0.25  # share of query windows placed anywhere, as a sliding window is
OWN_FIELD_OF_VIEW = 0.5  # share of episodes in which a window counts as the whole scan, as if it had been cropped
FLIP, INVERT = 0.25, 0.1  # per axis and per episode, the same for reference and query
DROP_MEMORY, DROP_LOCATION = 0.2, 0.15  # so that T without them (memory bank, moved scans) also works
DATASET_EXPONENT = 0.25  # probability of a dataset ∝ patients^exponent. Ours; the paper does not say

_read = lru_cache(maxsize=16)(read_case)  # per worker process


@dataclass(frozen=True)
class Episode:
    """Tensors with a batch axis of one. images (1, 1, x, y, z), masks (1, K, x, y, z), boxes (1, 2, 3)."""

    reference: Tensor
    reference_masks: Tensor
    reference_box: Tensor
    query: Tensor
    query_masks: Tensor
    query_valid: Tensor | None  # (1, 1, x, y, z), 0 where the label is nnU-Net's ignore label
    query_box: Tensor
    keys: list[str]  # 'Dataset/class' of each class
    drop_memory: bool
    drop_location: bool


class EpisodeDataset(Dataset):
    """Endless: index i is the i-th episode of the run, whatever process asks for it."""

    def __init__(self, cache: Path, index: dict[str, dict], config: IrisConfig, seed: int) -> None:
        """index: the datasets to draw from, entries of the cache's."""
        self.cache, self.config, self.seed = cache, config, seed
        self.datasets = {name: d for name, d in index.items() if d["train"]}
        self.classes = {name: [LabelClass(**c) for c in d["classes"]] for name, d in self.datasets.items()}
        patients = [len({d["cases"][c] for c in d["train"]}) for d in self.datasets.values()]
        self.probabilities = np.array(patients, float) ** DATASET_EXPONENT
        self.probabilities /= self.probabilities.sum()

    def __getitem__(self, i: int) -> Episode:
        rng = np.random.default_rng((self.seed, i))
        random.seed(int(rng.integers(2**32)))  # batchgenerators draws from both global states
        np.random.seed(rng.integers(2**32))
        for _ in range(1000):  # a case may show nothing, such as a patient without a lesion: it is no reference
            name = list(self.datasets)[rng.choice(len(self.datasets), p=self.probabilities)]
            reference, query = self._pair(rng, name)
            values = set(np.unique(reference.labels).tolist())
            present = [c for c in self.classes[name] if values.intersection(c.members)]
            if present and (episode := self._episode(rng, name, present, reference, query)) is not None:
                return episode
        raise InputError(f"{self.cache}: training cases must show at least one class, 1000 drawn at random showed none")

    def _pair(self, rng: np.random.Generator, name: str) -> tuple[CachedCase, CachedCase]:
        """Cases of two patients; of one patient if there is no other; the same case if there is no other."""
        dataset = self.datasets[name]
        first = dataset["train"][rng.integers(len(dataset["train"]))]
        others = [c for c in dataset["train"] if dataset["cases"][c] != dataset["cases"][first]]
        others = others or [c for c in dataset["train"] if c != first] or [first]
        second = others[rng.integers(len(others))]
        return tuple(_read(self.cache / name / f"{case}.npz") for case in (first, second))

    def _episode(
        self, rng, name: str, present: list[LabelClass], reference: CachedCase, query: CachedCase
    ) -> Episode | None:
        """None if the reference's window, placed at random, misses all that was to be shown."""
        ignore = self.datasets[name]["ignore"]
        anchor = present[rng.integers(len(present))]
        near = [c for c in self._near(reference, anchor, present) if c is not anchor]
        chosen = [anchor, *(near[i] for i in rng.permutation(len(near))[: rng.integers(MAX_CLASSES)])]
        automatic = choose_spacing((c.mask(reference.labels) for c in chosen), reference.spacing_mm, self.config.window)
        spacing = automatic * np.exp(rng.uniform(*np.log(SPACING_JITTER)))
        edge = round(rng.choice(WINDOWS) * self.config.window / self.config.multiple) * self.config.multiple
        flips, own = rng.random(3) < FLIP, rng.random(2) < OWN_FIELD_OF_VIEW
        sign = -1.0 if rng.random() < INVERT else 1.0

        image, masks, box = self._window(rng, reference, chosen, spacing, edge, bool(own[0]), query=False)
        kept = masks.sum((1, 2, 3)) > 0
        if not kept.any():
            return None
        chosen, masks = [c for c, k in zip(chosen, kept, strict=True) if k], masks[kept]
        asked = chosen if ignore is None else [*chosen, LabelClass("ignore", ignore, (ignore,))]
        q_image, q_masks, q_box = self._window(rng, query, asked, spacing, edge, bool(own[1]), query=True)

        axes = [int(a) - 3 for a in np.flatnonzero(flips)]

        def tensor(volume: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(np.flip(volume, axes)))[None]

        return Episode(
            reference=tensor(sign * image[None]),
            reference_masks=tensor(masks),
            reference_box=_flip_box(box, flips),
            query=tensor(sign * q_image[None]),
            query_masks=tensor(q_masks[: len(chosen)]),
            query_valid=None if ignore is None else 1 - tensor(q_masks[-1:]),
            query_box=_flip_box(q_box, flips),
            keys=[f"{name}/{c.name}" for c in chosen],
            drop_memory=bool(rng.random() < DROP_MEMORY),
            drop_location=bool(rng.random() < DROP_LOCATION),
        )

    def _near(self, case: CachedCase, anchor: LabelClass, present: list[LabelClass]) -> list[LabelClass]:
        """Classes inside the anchor's extent, widened by half: those a window around it is likely to hold."""
        if len(present) <= 2:
            return present
        first, last = extent(anchor.mask(case.labels))
        margin = (last - first) // 2 + 1
        region = case.labels[tuple(slice(max(0, a - m), b + m) for a, b, m in zip(first, last, margin, strict=True))]
        values = set(np.unique(region).tolist())
        return [c for c in present if values.intersection(c.members)]

    def _window(
        self, rng, case: CachedCase, chosen: list[LabelClass], spacing: float, edge: int, own: bool, query: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut, resample and augment one window around the first class: image (x, y, z), masks (K, x, y, z), box."""
        grid = WorkingGrid(case.labels.shape, case.spacing_mm, spacing)
        shape = np.array(window_shape(grid.working_shape, edge, self.config.multiple))
        start = _start(rng, case, grid, chosen[0].mask(case.labels), shape, query)
        matrices = grid.window_matrices(tuple(start), tuple(shape))
        volumes = [case.image, *(c.mask(case.labels).astype(np.float32) for c in chosen)]
        cut = np.stack([apply_matrices(torch.from_numpy(v), matrices).numpy() for v in volumes])
        image, masks = augment(cut[0], cut[1:], query)
        box = grid.box(tuple(start), tuple(shape)).numpy()
        if own:  # the part of the scan that lies in the window becomes the field of view
            low, high = np.maximum(start, 0), np.minimum(start + shape, grid.working_shape)
            box = (np.stack([start - low, start + shape - low]) / (high - low) * 2 - 1).astype(np.float32)
        return image, masks, box


def _start(rng, case: CachedCase, grid: WorkingGrid, mask: np.ndarray, shape: np.ndarray, query: bool) -> np.ndarray:
    """Where a window begins on the working grid: around the mask, or (some queries) anywhere."""
    slack = np.array(grid.working_shape) - shape
    if query and (not mask.any() or rng.random() < QUERY_ELSEWHERE):
        return np.array([rng.integers(s + 1) if s > 0 else s // 2 for s in slack])
    first, last = extent(mask)
    scale = np.array(case.spacing_mm) / grid.working_mm
    low, high = first * scale, last * scale
    centre = (low + high) / 2
    if (high - low > shape).any():  # larger than a window: somewhere on it
        inside = np.argwhere(mask)
        centre = inside[rng.integers(len(inside))] * scale
    room = np.clip((shape - (high - low)) / 2, shape * 0.1, shape * 0.4)
    start = np.round(centre - shape / 2 + rng.uniform(-1, 1, 3) * room).astype(int)
    return np.where(slack > 0, np.clip(start, 0, np.maximum(slack, 0)), slack // 2)


def _flip_box(box: np.ndarray, flips: np.ndarray) -> Tensor:
    """A window's corners (2, 3) after flipping its axes, with a batch axis."""
    return torch.from_numpy(np.where(flips, -box[::-1], box).astype(np.float32))[None]
