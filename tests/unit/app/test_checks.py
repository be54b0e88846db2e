"""Each thing that a person should know before a run is said once, in words; and nothing where all is well."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ball

from app.checks import check, forecast
from app.service import Service
from iris_core.case import Case, LabelClass, plain_classes
from nnunet_adapters.images import read_reference, read_scan

AFFINE = np.array([[1.0, 0, 0, -30], [0, 1, 0, -20], [0, 0, 1, 7], [0, 0, 0, 1]])
SHAPE = (40, 40, 40)


def case(labels=None, affine=AFFINE, shape=SHAPE, name="/private/folder/a.nii.gz", low=0.0, names=None) -> Case:
    image = np.random.default_rng(0).uniform(low, 500, shape).astype(np.float32)
    return Case(image, affine, labels, () if labels is None else plain_classes(labels, names), name=name)


def shown(**keywords) -> Case:
    return case(ball(SHAPE, (20, 20, 20), 8).astype(np.int32), **keywords)


def query(**keywords) -> Case:
    return case(**{"name": "/private/folder/b.nii.gz", **keywords})


def scaled(*steps: float) -> np.ndarray:
    return AFFINE @ np.diag([*steps, 1.0])


def at(*box: slice) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[box] = 1
    return labels


MIDDLE = slice(15, 25)
PROBLEMS = {
    "CT and not": ([shown(low=-1000)], query(), ["looks like a CT scan but b.nii.gz does not"]),
    "slices far apart": (
        [shown()],
        query(affine=scaled(1, 1, 4)),
        ["from feet to head, a.nii.gz has a sample every 1.0 mm"],
    ),
    "slices far apart, stored sideways": (
        [shown()],
        query(affine=scaled(1, 1, 4)[:, [2, 0, 1, 3]]),
        ["from feet to head, a.nii.gz has a sample every 1.0 mm"],
    ),
    "too small": ([shown()], query(shape=(40, 9, 40)), ["b.nii.gz covers 9 mm, but what is outlined"]),
    "much larger": ([shown()], query(shape=(40, 40, 170)), ["b.nii.gz covers 170 mm and a.nii.gz only 40 mm"]),
    "mirrored": ([shown()], query(affine=scaled(-1, 1, 1)), ["mirror images"]),
    "no orientation": (
        [shown()],
        query(affine=np.diag([1.0, 1, 1, 1])),
        ["how the patient lay in the scanner: b.nii.gz"],
    ),
    "what nibabel fills in": (
        [shown()],
        query(affine=np.array([[1.0, 0, 0, -19.5], [0, 1, 0, -19.5], [0, 0, 1, -19.5], [0, 0, 0, 1]])),
        ["how the patient lay in the scanner: b.nii.gz"],
    ),
    "empty": ([case(np.zeros(SHAPE, np.int32))], query(), ["mask of a.nii.gz is empty"]),
    "no mask": ([case()], query(), ["mask of a.nii.gz is empty"]),
    "tiny": ([case(at(*[slice(20, 23)] * 3))], query(), ["fewer than 50 points are outlined of: class 1"]),
    "one slice": ([case(at(MIDDLE, MIDDLE, 20))], query(), ["only one slice is outlined of: class 1"]),
    "cut off": ([case(at(slice(35, 40), MIDDLE, slice(0, 9)))], query(), ["(right, lower) cuts off: class 1"]),
    "two numbers": (
        [shown(names={1: "liver"}), replace(shown(name="c.nii"), classes=(LabelClass("liver", 2, (1,)),))],
        query(),
        ["liver is number 1 in the mask of a.nii.gz but number 2 in that of c.nii"],
    ),
    "two names": (
        [shown(names={1: "liver"}), shown(names={1: "spleen"}, name="c.nii")],
        query(),
        ["number 1 in the mask is called liver in a.nii.gz but spleen in c.nii"],
    ),
    "never shown": (
        [replace(shown(), classes=(LabelClass("liver", 1, (1,)), LabelClass("spleen", 2, (2,))))],
        query(),
        ["No reference shows spleen"],
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_is_said_once_and_nothing_else(problem):
    references, scan, said = PROBLEMS[problem]
    found = check(references, scan)
    assert len(found) == len(said), found
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence
        assert "/private" not in sentence


def test_nothing_is_said_where_all_is_well(sample):
    assert check([shown(), shown(name="c.nii")], query()) == []
    assert check([shown()], query(affine=scaled(1, 1, 2.5), low=400)) == []  # another contrast is no mismatch
    reference = read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz")
    assert check([reference], read_scan(sample / "query.nii.gz")) == []


def test_a_forecast_is_of_the_right_size_and_measured_once(tiny_weights):
    service = Service(str(tiny_weights), "cpu")
    embedding = service.encode(shown())
    first = forecast(service, embedding, query())
    assert 0 < first.seconds <= first.slowest
    assert 0 < first.gib < 0.5
    assert forecast(service, embedding, query()) == first
    larger = forecast(service, embedding, query(shape=(160, 160, 160)))
    assert larger.slowest > first.seconds
    assert larger.slowest > larger.seconds  # a coarse pass spares most windows
    assert larger.gib > first.gib


def test_a_forecast_counts_the_windows_that_inference_takes(tiny_weights):
    from iris_core.forecast import work

    service, counted = Service(str(tiny_weights), "cpu"), []
    embedding = replace(service.encode(shown()), overviews=(), detail=None)  # one pass: the number is certain
    scan = query(shape=(70, 60, 50))
    service.segment(embedding, scan, lambda done, of: counted.append(of))
    assert counted[0] == len(work(service.checkpoint.model, embedding, scan).windows) > 1


def test_a_forecast_expects_structures_as_large_as_the_reference_shows(tiny_weights):
    from iris_core.forecast import work

    service, scan = Service(str(tiny_weights), "cpu"), query(shape=(160, 160, 160))
    small = service.encode(shown())
    masks = small.references[0].masks
    masks = replace(masks, lattice=replace(masks.lattice, cell_mm=4 * masks.lattice.cell_mm))
    large = replace(small, references=(replace(small.references[0], masks=masks),))
    fewer, more = (work(service.checkpoint.model, embedding, scan) for embedding in (small, large))
    assert len(fewer.windows) < len(more.windows) <= len(more.if_lost)
