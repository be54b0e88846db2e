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
from iris_core.data.cache import FILLING, CachedCase, read_case
from iris_core.data.framing import draw_scale, draw_window, near
from iris_core.data.synthesis import MAX_CLASSES, OVERVIEW, Anatomy, View, shapes, supervoxels, synthetic_episode
from iris_core.geometry import WorkingGrid, apply_matrices
from iris_core.model.iris import IrisConfig
from iris_core.registration import Carried, Lattice, Scan, carry_over, prepare, register

FLIP, PERMUTE, INVERT = 0.25, 0.2, 0.1  # per axis and per episode, the same for reference and query
DROP_MEMORY, DROP_LOCATION = 0.2, 0.15  # so that T without them (memory bank, moved scans) also works
DROP_REGISTRATION = 0.25  # of those with a memory: the head learns to find alone, and an episode takes half the time
STRANGE = 0.3  # share of episodes whose T is made strange, as that of a class that no training showed
DATASET_EXPONENT = 0.25  # probability of a dataset ∝ patients^exponent. Ours; the paper does not say
MAPS_EXPONENT = 0.5  # of a folder of label maps ∝ maps^exponent: halfway from folders alike to maps alike. Ours
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
    strangeness: float  # 0 to 1: how much of T's vectors is noise
    seed: int  # of that noise
    carried: Carried | None = None  # the reference's masks where registration finds them; None: not registered
    refused: tuple[str, ...] = ()  # 'Dataset: case, case' of draws before this one that no episode could be made of


class EpisodeDataset(Dataset):
    """Endless: index i is the i-th episode of the run, whatever process asks for it."""

    def __init__(
        self, cache: Path, index: dict[str, dict], config: IrisConfig, seed: int, synthetic: float, whole: bool = False
    ) -> None:
        """index: the datasets to draw from, entries of the cache's. synthetic: share of synthetic episodes. whole:
        nothing of T is left out or made strange, and registration looks closer, as where a query is segmented."""
        self.cache, self.config, self.seed, self.synthetic, self.whole = cache, config, seed, synthetic, whole
        self.datasets = {name: d for name, d in index.items() if d["train"]}
        self.classes = {name: [LabelClass(**c) for c in d["classes"]] for name, d in self.datasets.items()}
        self.real = [name for name, d in self.datasets.items() if d["images"]]
        self.maps = [name for name, d in self.datasets.items() if not d["images"]]

    def __getitem__(self, i: int) -> Episode:
        rng = np.random.default_rng((self.seed, i))
        random.seed(int(rng.integers(2**32)))  # batchgenerators draws from both global states
        np.random.seed(rng.integers(2**32))
        refused: list[str] = []
        for _ in range(1000):  # a case may show nothing, such as a patient without a lesion: it is no reference
            kind, name, cases = self._draw(rng)
            try:
                episode = self._make(rng, kind, name, cases)
            except InputError as error:  # such as a field of view too large for the task's spacing
                refused.append(f"{name or kind}: {', '.join(cases)}")
                reason = str(error)
                continue
            if episode is not None:
                return replace(episode, refused=tuple(refused))
        message = f"{self.cache}: training cases must show at least one class, 1000 drawn at random showed none"
        raise InputError(f"{message}; {len(refused)} were refused, the last since {reason}" if refused else message)

    def _draw(self, rng: np.random.Generator) -> tuple[str, str, tuple[str, ...]]:
        """What to make an episode of: its kind ('real' or of KINDS), a dataset, and cases for reference and query."""
        kind = "real"
        if rng.random() < self.synthetic or not self.real:
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        if kind == "shapes":
            return kind, "", ()
        if kind == "painted" or not self.real:
            use_maps = self.maps and (not self.real or rng.random() < MAPS)
            name = self._dataset(rng, self.maps if use_maps else self.real)
            return "painted", name, self._pair(rng, name)
        name = self._dataset(rng, self.real)
        return kind, name, self._pair(rng, name)

    def _dataset(self, rng: np.random.Generator, names: list[str]) -> str:
        weights = np.array([self._weight(self.datasets[name]) for name in names])
        return names[rng.choice(len(names), p=weights / weights.sum())]

    def _weight(self, dataset: dict) -> float:
        if dataset["images"]:
            return len({dataset["cases"][c] for c in dataset["train"]}) ** DATASET_EXPONENT
        return len(dataset["train"]) ** MAPS_EXPONENT

    def _pair(self, rng: np.random.Generator, name: str) -> tuple[str, str]:
        """Cases of two patients; of one patient if there is no other; the same case if there is no other.

        Label maps that know their structures by name: one that shows the same in another body, else the same map.
        """
        dataset = self.datasets[name]
        train = dataset["train"]
        first = train[rng.integers(len(train))]
        if "partners" in dataset:
            others = [c for c in dataset["partners"][first] if c in train] or [first]
        else:
            others = [c for c in train if dataset["cases"][c] != dataset["cases"][first]]
            others = others or [c for c in train if c != first] or [first]
        return first, others[rng.integers(len(others))]

    def _make(self, rng: np.random.Generator, kind: str, name: str, cases: tuple[str, ...]) -> Episode | None:
        """None where there was nothing to show."""
        if kind == "real":
            return self._real(rng, name, *(_read(self.cache / name / f"{case}.npz") for case in cases))
        views = synthetic_episode(rng, *self._anatomies(rng, kind, name, cases), self.config)
        return None if views is None else self._finish(rng, *views, [], None)

    def _anatomies(
        self, rng: np.random.Generator, kind: str, name: str, cases: tuple[str, ...]
    ) -> tuple[Anatomy, Anatomy]:
        """Of reference and query: the same one, or (some painted episodes) of two subjects."""
        if kind == "shapes":
            anatomy = shapes(rng, self.config.window)
            return anatomy, anatomy
        first = _read(self.cache / name / f"{cases[0]}.npz")
        two = cases[0] != cases[1] and rng.random() < TWO_SUBJECTS
        if kind == "lesions":
            scans = (first, _read(self.cache / name / f"{cases[1]}.npz")) if two else (first,)
            unlabelled = [Anatomy(np.ones_like(c.labels, np.int32), c.spacing_mm, c.image) for c in scans]
            return unlabelled[0], unlabelled[-1]
        if kind == "warped":
            labels = first.labels
            if rng.random() < SUPERVOXELS or not labels.any():
                labels = supervoxels(rng, first.image, first.spacing_mm) + 1
            anatomy = Anatomy(labels.astype(np.int32) + 1, first.spacing_mm, first.image)
            return anatomy, anatomy
        if not two:
            anatomy = Anatomy(first.labels.astype(np.int32) + 1, first.spacing_mm)
            return anatomy, anatomy
        second = _read(self.cache / name / f"{cases[1]}.npz")
        labels = [first.labels, second.labels]
        if "partners" in self.datasets[name]:
            labels = _without_single(*labels)
        return tuple(
            Anatomy(own.astype(np.int32) + 1, case.spacing_mm)
            for own, case in zip(labels, (first, second), strict=True)
        )

    def _real(self, rng: np.random.Generator, name: str, reference: CachedCase, query: CachedCase) -> Episode | None:
        """None if the reference shows nothing, or its window, placed at random, misses all that was to be shown."""
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

        episode = Episode(
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
            strangeness=float(rng.random() * (rng.random() < STRANGE)),
            seed=int(rng.integers(2**31)),
        )
        if self.whole:
            episode = replace(episode, drop_memory=False, drop_location=False, strangeness=0.0)
        drop_registration = not self.whole and (episode.drop_memory or rng.random() < DROP_REGISTRATION)
        if drop_registration or not self.config.registration:
            return episode
        return replace(episode, carried=carried_over(episode, self.config.stem_stride, closer=self.whole))


def _without_single(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Two subjects' label maps, with what only one of them names made filling: the other may name it otherwise."""
    values = np.arange(max(first.max(), second.max()) + 1, dtype=np.int32)
    common = np.logical_and(*(np.bincount(labels.ravel(), minlength=len(values)) for labels in (first, second)))
    lookup = np.where(common | (values == 0), values, FILLING + values)
    return [lookup[labels] for labels in (first, second)]


def carried_over(episode: Episode, stride: int, closer: bool) -> Carried:
    """The reference's masks where registration finds them in the query. Windows are registered as whole scans are, in
    voxels for mm; what they know of their fields of view says where one may lie in the other. closer: see ``prepare``.
    """
    windows = (episode.reference, episode.reference_box), (episode.query, episode.query_box)
    reference, query = (Scan(image[0, 0], (1.0, 1.0, 1.0), _view(image, box)) for image, box in windows)
    shown = prepare(reference, list(episode.reference_masks[0]), closer=closer)
    low, high = episode.reference_box[0]
    start = ((episode.query_box[0].mean(0) - low) / (high - low) - 0.5) * torch.tensor(episode.reference.shape[2:])
    return carry_over([register(query, shown, start)], Lattice(tuple(query.image.shape), 1.0), stride)


def _view(image: Tensor, box: Tensor) -> Tensor:
    """Corners (2, 3) of the field of view in a window, in voxels from the window's middle."""
    low, high = box[0]
    corners = torch.stack([-torch.ones(3), torch.ones(3)])
    return ((corners - low) / (high - low) - 0.5) * torch.tensor(image.shape[2:])
