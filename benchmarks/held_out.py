"""Pairs of reference and query per set, fixed, for models that were trained without the set. No command of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from iris_core.case import Case, LabelClass
from iris_core.data.painting import Contrast, artefacts, paint
from iris_core.evaluation.metrics import dice
from iris_core.evaluation.protocol import draw_pairs
from iris_core.geometry import extent
from nnunet_adapters.label_maps import open_label_maps
from nnunet_adapters.raw import open_dataset

LABEL_MAPS = Path("../shared/data/label_maps/brain")
PAIRS = 20  # at most, of a set
TORSO = range(1, 10)  # spleen to left adrenal gland: the organs that CT and MR number alike
BRAIN = {  # FreeSurfer's numbers, left and right together
    "white matter": (2, 41),
    "cortex": (3, 42),
    "lateral ventricle": (4, 43),
    "cerebellum": (7, 8, 46, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "brain stem": (16,),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
}
BRAIN_TEST = ("01", "02", "03", "04")  # of the 20 maps; leave_out.py trains on the others
BRAIN_NEW = ("04", "09", "14", "17")  # that released weights were not painted on


@dataclass(frozen=True)
class Pair:
    reference: Case
    query: Case

    def dice(self, predicted: np.ndarray) -> float:
        """Mean over the classes that reference and query show."""
        shown = [c for c in self.reference.present() if c.mask(self.query.labels).any()]
        return float(np.mean([dice(predicted == c.value, c.mask(self.query.labels)) for c in shown]))


def held_out(name: str, raw_data: Path | None = None) -> Iterator[Pair]:
    """The pairs of a set of SETS, read one after the other."""
    yield from SETS[name](raw_data)


def patients(identifier: str):
    """Pairs of different patients of one dataset, every case a query at most once."""

    def pairs(raw_data: Path | None) -> Iterator[Pair]:
        dataset = open_dataset(identifier, raw_data)
        queries = np.random.default_rng(0).permutation(sorted(dataset.files)).tolist()
        drawn = draw_pairs(dataset.patients, queries, sorted(dataset.files), 2, seed=0)
        drawn = [p for p in dict.fromkeys(drawn) if dataset.case(p[0]).labels.any() and dataset.case(p[1]).labels.any()]
        for reference, query in drawn[: 2 * PAIRS : 2] if len(drawn) >= 2 * PAIRS else drawn[:PAIRS]:
            yield Pair(dataset.case(reference), dataset.case(query))

    return pairs


def fetal(raw_data: Path | None) -> Iterator[Pair]:
    """Six stacks of one fetus: each the query of the next two."""
    dataset = open_dataset("102", raw_data)
    cases = sorted(dataset.files)
    for i in range(len(cases)):
        for step in (1, 2):
            yield Pair(dataset.case(cases[i]), dataset.case(cases[(i + step) % len(cases)]))


def torso(raw_data: Path | None) -> Iterator[Pair]:
    """CT shown, MR asked, and the other way round; two subjects; the CT's field of view cut to the organs' height."""
    ct, mr = (open_dataset(i, raw_data) for i in ("103", "104"))
    cases = []
    for dataset in (ct, mr):
        case = dataset.case(next(iter(dataset.files)))
        labels = np.where(np.isin(case.labels, TORSO), case.labels, 0)
        classes = tuple(LabelClass(str(v), v, (v,)) for v in TORSO)
        first, last = extent(labels > 0)
        height = slice(max(0, first[2] - 5), last[2] + 5)
        affine = case.affine.copy()
        affine[:3, 3] += affine[:3, 2] * height.start
        cases.append(Case(case.image[..., height], affine, labels[..., height], classes, name=case.name))
    yield Pair(cases[0], cases[1])
    yield Pair(cases[1], cases[0])


def heads(numbers: tuple[str, ...], spoilt: bool):
    """Painted heads: two subjects, 11 structures. spoilt: contrasts near each other and the artefacts of training;
    else one contrast and clean, as two scans of one protocol are."""

    def pairs(raw_data: Path | None) -> Iterator[Pair]:
        maps = open_label_maps(LABEL_MAPS)
        subjects = [maps.case(f"training_seg_{n}") for n in numbers]
        tissue = np.unique(np.concatenate([np.unique(head.labels) for head in subjects]))
        for i in range(len(subjects)):
            for step in (1, 2):
                rng = np.random.default_rng((i, step))
                contrast, cases = Contrast.draw(rng, tissue), []
                for head in (subjects[i], subjects[(i + step) % len(subjects)]):
                    cases.append(_painted(rng, head, contrast, spoilt))
                    if spoilt:
                        contrast = replace(contrast, mean=contrast.mean + rng.normal(0, 0.05, len(tissue)))
                yield Pair(*cases)

    return pairs


def _painted(rng: np.random.Generator, head: Case, contrast: Contrast, spoilt: bool) -> Case:
    labels = torch.from_numpy(head.labels).long()
    image = paint(rng, labels, contrast)
    if spoilt:
        image = artefacts(rng, image, torch.zeros_like(labels, dtype=torch.bool))
    wanted = np.zeros(head.labels.shape, np.int32)
    for value, members in enumerate(BRAIN.values(), 1):
        wanted[np.isin(head.labels, members)] = value
    classes = tuple(LabelClass(name, i, (i,)) for i, name in enumerate(BRAIN, 1))
    return Case(image.numpy(), head.affine, wanted, classes, name=head.name)


SETS = {
    "hippocampus": patients("4"),
    "heart": patients("101"),
    "fetal brain": fetal,
    "torso CT-MR": torso,
    "lesion": patients("106"),
    "painted brain": heads(BRAIN_TEST, spoilt=True),
    "plain brain": heads(BRAIN_NEW, spoilt=False),
}
