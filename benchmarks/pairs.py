"""The pairs on which registrations are compared, of pairs.json: chosen once, at random. Its command chose them.

    python benchmarks/pairs.py > benchmarks/pairs.json

pairs.json: set → [[reference, query], …], each "folder/case" of nnUNet_raw or of label_maps. Label maps are painted,
one contrast for both scans or two, where the set's name says so. Sets are the datasets with two subjects or more, or
two contrasts of one. Tumours and lesions are sets of their own kind, TUMOURS: each lies elsewhere, so registrations are
not compared on them.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from held_out import BRAIN, Pair

from iris_core.case import Case, LabelClass
from iris_core.data.painting import Contrast, artefacts, paint
from iris_core.evaluation.protocol import draw_pairs
from iris_core.geometry import extent
from nnunet_adapters.label_maps import open_label_maps
from nnunet_adapters.raw import open_dataset

DATA = Path("../shared/data")
PAIRS = 8
DATASETS = {
    "hippocampus": "Dataset004_Hippocampus",
    "heart": "Dataset101_SunnybrookLV",
    "fetal brain": "Dataset102_FetalBrain",
    "spinal cord": "Dataset105_SpinalCord",
    "head-neck CT": "Dataset107_HeadNeckCT",
    "vertebrae": "Dataset111_VertebraT2",
    "prostate US": "Dataset112_ProstateTRUS",
    "fetal atlas": "Dataset113_FetalBrainAtlas",
    "lesion": "Dataset106_MSLesion",
    "sarcoma CT": "Dataset108_SarcomaCT",
    "sarcoma MR": "Dataset109_SarcomaMR",
    "sarcoma PET": "Dataset110_SarcomaPET",
}
TUMOURS = "lesion", "sarcoma CT", "sarcoma MR", "sarcoma PET"
TORSO = range(1, 10)  # spleen to left adrenal gland: the organs that CT and MR number alike
MOST = 15  # structures of a pair of anatomies, the largest
FILLING = re.compile("^rest|other tissue")


def listed() -> dict[str, list[list[str]]]:
    return json.loads(Path(__file__).with_suffix(".json").read_text())


def read(name: str, number: int) -> Pair:
    """One pair of a set; where it is painted, ``number`` is the seed."""
    query, reference = several(name, number, 1)
    return Pair(reference, query)


def several(name: str, number: int, n: int) -> list[Case]:
    """The query of a pair; its reference and, up to n in all, those of other subjects that the set's pairs name."""
    pairs = listed()[name]
    reference, query = pairs[number]
    names, folder = [reference, query], reference.split("/")[0]
    for case in [case for pair in pairs[number:] + pairs[:number] for case in pair]:
        if len(names) <= n and _subject(case) not in map(_subject, names):
            names.append(case)
    if folder == "brain":
        cases = [_head(case) for case in names]
    elif folder == "anatomy":
        cases = _same_names(*names)
    else:
        cases = [_scan(case) for case in names]
        if folder != query.split("/")[0]:
            cases = [_organs(case) for case in cases]
    if folder in ("brain", "anatomy"):
        cases = _painted(np.random.default_rng(number), cases, two="two contrasts" in name)
    return [cases[1], cases[0], *cases[2:]]


def _scan(name: str) -> Case:
    dataset, case = name.split("/")
    return open_dataset(dataset, raw_folder()).case(case)


def raw_folder() -> Path:
    return Path(os.environ.get("nnUNet_raw", DATA / "nnUNet_raw"))


def _subject(name: str) -> str:
    dataset, case = name.split("/")
    return name if dataset in ("brain", "anatomy") else open_dataset(dataset, raw_folder()).patients[case]


def _map(name: str) -> Case:
    folder, case = name.split("/")
    return open_label_maps(DATA / "label_maps" / folder).case(case)


def _head(name: str) -> Case:
    """classes: those of BRAIN, by FreeSurfer's numbers."""
    classes = tuple(LabelClass(name, i, members) for i, (name, members) in enumerate(BRAIN.items(), 1))
    return replace(_map(name), classes=classes)


def _same_names(*names: str) -> list[Case]:
    """Two maps numbered alike: labels of one name have one value; classes are the largest that both show."""
    cases, tables = [_map(name) for name in names], []
    known = json.loads((DATA / "label_maps/anatomy/names.json").read_text())
    for name in names:
        labels = known[f"{name.split('/')[1]}.nii.gz"]["labels"]
        tables.append({int(v): re.sub("^(VH|SBU)_[FM]_", "", called) for v, called in labels.items()})
    numbers = {called: i for i, called in enumerate(dict.fromkeys([*tables[0].values(), *tables[1].values()]), 1)}
    numbered = []
    for case, table in zip(cases, tables, strict=True):
        lookup = np.zeros(int(case.labels.max()) + 1, np.int32)
        for value, called in table.items():
            if value < len(lookup):
                lookup[value] = numbers[called]
        numbered.append(lookup[case.labels])
    counts = [np.bincount(labels.ravel(), minlength=len(numbers) + 1) for labels in numbered]
    size = {called: min(c[i] for c in counts) for called, i in numbers.items() if not FILLING.search(called)}
    shown = sorted(filter(size.get, size), key=size.get, reverse=True)[:MOST]
    classes = tuple(LabelClass(called, numbers[called], (numbers[called],)) for called in shown)
    return [replace(case, labels=labels, classes=classes) for case, labels in zip(cases, numbered, strict=True)]


def _organs(case: Case) -> Case:
    """Of the torso: the organs that CT and MR share, the field of view cut to their height."""
    labels = np.where(np.isin(case.labels, TORSO), case.labels, 0)
    first, last = extent(labels > 0)
    height = slice(max(0, first[2] - 5), last[2] + 5)
    affine = case.affine.copy()
    affine[:3, 3] += affine[:3, 2] * height.start
    classes = tuple(LabelClass(str(v), v, (v,)) for v in TORSO)
    return Case(case.image[..., height], affine, labels[..., height], classes, name=case.name)


def _painted(rng: np.random.Generator, cases: list[Case], two: bool) -> list[Case]:
    """Grey values for all: one contrast and clean, as scans of one protocol are; or one each, with the artefacts that
    training paints too."""
    tissue = np.unique(np.concatenate([np.unique(case.labels) for case in cases]))
    contrast, painted = Contrast.draw(rng, tissue), []
    for case in cases:
        labels = torch.from_numpy(case.labels).long()
        image = paint(rng, labels, contrast)
        if two:
            image = artefacts(rng, image, torch.zeros_like(labels, dtype=torch.bool))
            contrast = Contrast.draw(rng, tissue)
        wanted = np.zeros(case.labels.shape, np.int32)
        for c in case.classes:
            wanted[c.mask(case.labels)] = c.value
        plain = tuple(LabelClass(c.name, c.value, (c.value,)) for c in case.classes)
        painted.append(Case(image.numpy(), case.affine, wanted, plain, name=case.name))
    return painted


def _choose() -> dict[str, list[tuple[str, str]]]:
    chosen: dict[str, list[tuple[str, str]]] = {}
    for name, folder in DATASETS.items():
        dataset = open_dataset(folder, DATA / "nnUNet_raw")
        cases = [case for case in sorted(dataset.files) if dataset.case(case).labels.any()]
        queries = np.random.default_rng(1).permutation(cases).tolist()
        patients = dict(dataset.patients)
        if len(set(patients.values())) == 1:  # contrasts or stacks of one subject
            patients = {case: case for case in cases}
        drawn = dict.fromkeys(draw_pairs(patients, queries, cases, -(-PAIRS // len(queries)), seed=1))
        chosen[name] = [(f"{folder}/{reference}", f"{folder}/{query}") for reference, query in list(drawn)[:PAIRS]]
    torso = "Dataset103_TorsoCT/torsoct_1", "Dataset104_TorsoMR/torsomr_1"
    chosen["torso CT-MR"] = [torso, torso[::-1]]
    heads = sorted(open_label_maps(DATA / "label_maps/brain").files)
    for name, seed in (("brain, one contrast", 1), ("brain, two contrasts", 2)):
        drawn = draw_pairs(
            {h: h for h in heads}, np.random.default_rng(seed).permutation(heads).tolist(), heads, 1, seed
        )
        chosen[name] = [(f"brain/{reference}", f"brain/{query}") for reference, query in drawn[:PAIRS]]
    regions = "abdomen", "heart", "kidney_L", "kidney_R", "knee_L", "knee_R", "larynx", "pelvis"
    woman, man = ([f"anatomy/hubmap_{sex}_{region}" for region in regions] for sex in "FM")
    chosen["anatomy, one contrast"] = list(zip(woman, man, strict=True))
    chosen["anatomy, two contrasts"] = list(zip(man, woman, strict=True))
    return chosen


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(pairs)}" for name, pairs in _choose().items()]
    print("{\n" + ",\n".join(lines) + "\n}")
