"""Episodes: one reference, one query, K binary masks (paper, section 3.4). Episode i depends on (seed, i) alone."""

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from iris_core.case import InputError, LabelClass
from iris_core.data.augment import augment
from iris_core.data.cache import CachedCase, read_case
from iris_core.data.framing import draw_scale, draw_window, near
from iris_core.data.synthesis import MAX_CLASSES, OVERVIEW, Anatomy, View, shapes, supervoxels, synthetic_episode
from iris_core.geometry import WorkingGrid, apply_matrices
from iris_core.model.iris import IrisConfig
from iris_core.registration import Scan, carry_over, register, show

FLIP, PERMUTE, INVERT = 0.25, 0.2, 0.1  # per axis and per episode, the same for reference and query
DROP_MEMORY, DROP_LOCATION = 0.2, 0.15  # so that T without them (memory bank, moved scans) also works
DATASET_EXPONENT = 0.25  # probability of a dataset ∝ patients^exponent. Ours; the paper does not say
KINDS = {"warped": 0.3, "painted": 0.35, "shapes": 0.15, "lesions": 0.2}  # of synthetic episodes
TWO_SUBJECTS = 0.6  # share of painted episodes and of those on lesions with two subjects; else one, deformed twice
MAPS = 0.7  # share of painted episodes on label maps without images, where there are any
SUPERVOXELS = 0.6  # share of warped episodes that ask for pieces of the image, not for its classes

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

    def __init__(self, cache: Path, index: dict[str, dict], config: IrisConfig, seed: int, synthetic: float) -> None:
        """index: the datasets to draw from, entries of the cache's. synthetic: share of synthetic episodes."""
        self.cache, self.config, self.seed, self.synthetic = cache, config, seed, synthetic
        self.datasets = {name: d for name, d in index.items() if d["train"]}
        self.classes = {name: [LabelClass(**c) for c in d["classes"]] for name, d in self.datasets.items()}
        self.real = [name for name, d in self.datasets.items() if d["images"]]

    def __getitem__(self, i: int) -> Episode:
        rng = np.random.default_rng((self.seed, i))
        random.seed(int(rng.integers(2**32)))  # batchgenerators draws from both global states
        np.random.seed(rng.integers(2**32))
        for _ in range(1000):  # a case may show nothing, such as a patient without a lesion: it is no reference
            if rng.random() < self.synthetic or not self.real:
                kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
                views = synthetic_episode(rng, *self._anatomies(rng, kind), self.config)
                if views is not None:
                    return self._finish(rng, *views, [], None)
            elif (episode := self._real(rng, self._dataset(rng, self.real))) is not None:
                return episode
        raise InputError(f"{self.cache}: training cases must show at least one class, 1000 drawn at random showed none")

    def _dataset(self, rng: np.random.Generator, names: list[str]) -> str:
        cases = [self.datasets[name] for name in names]
        weights = np.array([len({d["cases"][c] for c in d["train"]}) for d in cases], float) ** DATASET_EXPONENT
        return names[rng.choice(len(names), p=weights / weights.sum())]

    def _anatomies(self, rng: np.random.Generator, kind: str) -> tuple[Anatomy, Anatomy]:
        """Of reference and query: the same one, or (some painted episodes) of two subjects."""
        if kind == "warped" and self.real:
            case, _ = self._pair(rng, self._dataset(rng, self.real))
            labels = case.labels
            if rng.random() < SUPERVOXELS or not labels.any():
                labels = supervoxels(rng, case.image, case.spacing_mm) + 1
            anatomy = Anatomy(labels.astype(np.int32) + 1, case.spacing_mm, case.image)
            return anatomy, anatomy
        if kind == "lesions" and self.real:
            cases = self._pair(rng, self._dataset(rng, self.real))
            first, second = (Anatomy(np.ones_like(c.labels, np.int32), c.spacing_mm, c.image) for c in cases)
            return first, second if rng.random() < TWO_SUBJECTS else first
        if kind == "shapes":
            anatomy = shapes(rng, self.config.window)
            return anatomy, anatomy
        maps = [name for name in self.datasets if name not in self.real] if rng.random() < MAPS else []
        cases = self._pair(rng, self._dataset(rng, maps or list(self.datasets)))
        first, second = (Anatomy(case.labels.astype(np.int32) + 1, case.spacing_mm) for case in cases)
        return first, second if rng.random() < TWO_SUBJECTS and cases[0] is not cases[1] else first

    def _pair(self, rng: np.random.Generator, name: str) -> tuple[CachedCase, CachedCase]:
        """Cases of two patients; of one patient if there is no other; the same case if there is no other."""
        dataset = self.datasets[name]
        first = dataset["train"][rng.integers(len(dataset["train"]))]
        others = [c for c in dataset["train"] if dataset["cases"][c] != dataset["cases"][first]]
        others = others or [c for c in dataset["train"] if c != first] or [first]
        second = others[rng.integers(len(others))]
        return tuple(_read(self.cache / name / f"{case}.npz") for case in (first, second))

    def _real(self, rng: np.random.Generator, name: str) -> Episode | None:
        """None if the reference shows nothing, or its window, placed at random, misses all that was to be shown."""
        reference, query = self._pair(rng, name)
        values = set(np.unique(reference.labels).tolist())
        present = [c for c in self.classes[name] if values.intersection(c.members)]
        if not present:
            return None
        ignore = self.datasets[name]["ignore"]
        anchor, overview = present[rng.integers(len(present))], rng.random() < OVERVIEW
        others = [c for c in (present if overview else near(reference.labels, anchor, present)) if c is not anchor]
        chosen = [anchor, *(others[i] for i in rng.permutation(len(others))[: rng.integers(MAX_CLASSES)])]
        spacing, edge = draw_scale(rng, reference.labels, reference.spacing_mm, chosen, self.config, overview)
        shown = self._view(rng, reference, chosen, spacing, edge, query=False)
        kept = shown.masks.any((1, 2, 3))
        if not kept.any():
            return None
        shown = replace(shown, masks=shown.masks[kept])
        chosen = [c for c, k in zip(chosen, kept, strict=True) if k]
        asked = chosen if ignore is None else [*chosen, LabelClass("ignore", ignore, (ignore,))]
        view = self._view(rng, query, asked, spacing, edge, query=True)
        valid = None if ignore is None else 1 - view.masks[-1:]
        view = replace(view, masks=view.masks[: len(chosen)])
        return self._finish(rng, shown, view, [f"{name}/{c.name}" for c in chosen], valid)

    def _view(self, rng, case: CachedCase, chosen: list[LabelClass], spacing: float, edge: int, query: bool) -> View:
        """Cut, resample and augment one window around the first class."""
        grid = WorkingGrid(case.labels.shape, case.spacing_mm, spacing)
        window = draw_window(rng, grid, chosen[0].mask(case.labels), edge, self.config, query)
        matrices = grid.window_matrices(tuple(window.start), tuple(window.shape))
        volumes = [case.image, *(c.mask(case.labels).astype(np.float32) for c in chosen)]
        cut = np.stack([apply_matrices(torch.from_numpy(v), matrices).numpy() for v in volumes])
        image, masks = augment(cut[0], cut[1:], query)
        return View(image, masks, window.box)

    def _finish(
        self, rng: np.random.Generator, reference: View, query: View, keys: list[str], valid: np.ndarray | None
    ) -> Episode:
        """Flips, axis permutation and inversion of both sides alike; tensors."""
        flips = rng.random(3) < FLIP
        order = rng.permutation(3) if rng.random() < PERMUTE else np.arange(3)
        sign = -1.0 if rng.random() < INVERT else 1.0

        def tensor(volumes: np.ndarray) -> Tensor:
            turned = np.transpose(np.flip(volumes, [a + 1 for a in np.flatnonzero(flips)]), (0, *(order + 1)))
            return torch.from_numpy(np.ascontiguousarray(turned))[None]

        def corners(box: np.ndarray) -> Tensor:
            return torch.from_numpy(np.where(flips, -box[::-1], box)[:, order].astype(np.float32))[None]

        return Episode(
            reference=tensor(sign * reference.image[None]),
            reference_masks=tensor(reference.masks),
            reference_box=corners(reference.box),
            query=tensor(sign * query.image[None]),
            query_masks=tensor(query.masks),
            query_valid=None if valid is None else tensor(valid),
            query_box=corners(query.box),
            keys=keys,
            drop_memory=bool(rng.random() < DROP_MEMORY),
            drop_location=bool(rng.random() < DROP_LOCATION),
        )


def carried_over(episode: Episode, stride: int, device: torch.device) -> Tensor:
    """The reference's masks where registration finds them in the query, and how certain it is: (1, K, 2, …) at
    ``stride``. Windows are registered as whole scans are, in voxels for mm; what they know of their fields of view says
    where one may lie in the other."""
    windows = (episode.reference, episode.reference_box), (episode.query, episode.query_box)
    reference, query = (Scan(image[0, 0].to(device), (1.0, 1.0, 1.0), _view(image, box)) for image, box in windows)
    shown = show(reference, list(episode.reference_masks[0].to(device))).to(device)
    low, high = episode.reference_box[0]
    start = ((episode.query_box[0].mean(0) - low) / (high - low) - 0.5) * torch.tensor(episode.reference.shape[2:])
    shape = tuple(query.image.shape)
    places = WorkingGrid(shape, (1.0, 1.0, 1.0), 1.0).places_mm((0, 0, 0), shape, stride).to(device)
    return carry_over([register(query, shown, start)], places)


def _view(image: Tensor, box: Tensor) -> Tensor:
    """Corners (2, 3) of the field of view in a window, in voxels from the window's middle."""
    low, high = box[0]
    corners = torch.stack([-torch.ones(3), torch.ones(3)])
    return ((corners - low) / (high - low) - 0.5) * torch.tensor(image.shape[2:])
