"""The shipped weights on the shipped scans: they work, and what the reference shows decides what is segmented."""

import json

import numpy as np
import pytest
from conftest import SAMPLES

from app.service import Service
from iris_core.case import Case, plain_classes
from iris_core.evaluation.metrics import dice
from nnunet_adapters.images import read_reference


@pytest.fixture(scope="module")
def service() -> Service:
    return Service("iris-small", "cpu")


def load(name: str) -> tuple[Case, Case]:
    folder = SAMPLES / name
    return tuple(read_reference(folder / f"{s}.nii.gz", folder / f"{s}_mask.nii.gz") for s in ("reference", "query"))


def only(case: Case, value: int) -> Case:
    labels = np.where(case.labels == value, value, 0)
    return Case(case.image, case.affine, labels, plain_classes(labels))


def result(service: Service, reference: Case, query: Case) -> np.ndarray:
    return service.segment(service.encode(reference), Case(query.image, query.affine))


@pytest.mark.parametrize("name", ["hippocampus", "heart"])
def test_the_samples_are_segmented(name, service):
    reference, query = load(name)
    labels = result(service, reference, query)
    for structure in reference.present():
        assert dice(structure.mask(labels), structure.mask(query.labels)) >= 0.7, structure


def test_another_mask_on_the_same_reference_gives_the_other_structure(service):
    reference, query = load("hippocampus")
    for shown, other in ((1, 2), (2, 1)):
        predicted = result(service, only(reference, shown), query) != 0
        right, wrong = (dice(predicted, query.labels == v) for v in (shown, other))
        assert right >= 0.6, (shown, right)
        assert wrong <= 0.3, (shown, wrong)


def test_an_unrelated_reference_collapses(service):
    reference, query = load("hippocampus")
    heart, _ = load("heart")
    good = dice(result(service, reference, query) != 0, query.labels != 0)
    bad = dice(result(service, heart, query) != 0, query.labels != 0)
    assert bad < 0.5 * good, (bad, good)


def test_the_samples_were_not_trained_on(service):
    """A sample's case, and its patient, is a validation case of the weights."""
    record = service.checkpoint.training["datasets"]
    for sample in json.loads((SAMPLES / "samples.json").read_text("utf-8")).values():
        split = record[sample["dataset"]]
        for case in sample["cases"].values():
            assert case in split["val"]
            assert case not in split["train"]


def test_confidence_tells_a_good_reference_from_a_bad_one(service):
    reference, query = load("hippocampus")
    heart, _ = load("heart")
    asked = Case(query.image, query.affine)
    trust = []
    for shown in (reference, heart):
        embedding = service.encode(shown)
        trust.append(service.confidence([shown], asked, service.segment(embedding, asked), embedding))
    assert set(trust[0]) == {c.name for c in reference.present()}
    assert min(trust[0].values()) > max(trust[1].values())
