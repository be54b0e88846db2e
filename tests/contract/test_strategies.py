"""Every strategy makes a TaskEmbedding that decodes; what holds for one holds for all."""

import nibabel
import numpy as np
import pytest
import torch
from conftest import ball

from iris_core.case import Case, InputError, plain_classes
from iris_core.inference import segment
from iris_core.strategies import STRATEGIES


def case_of(labels, spacing=(1.0, 1.0, 1.0), name="case") -> Case:
    rng = np.random.default_rng(0)
    image = (labels * 50 + rng.normal(0, 5, labels.shape)).astype(np.float32)
    return Case(image, np.diag([*spacing, 1.0]), labels, plain_classes(labels), name=name)


@pytest.fixture
def reference() -> Case:
    labels = ball().astype(np.int32) * 7
    labels[ball(radius=3)] = 40
    return case_of(labels)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("grid", ["auto", "paper"])
def test_values_names_and_grid_come_through(strategy, grid, tiny, reference):
    embedding = STRATEGIES[strategy](tiny, reference, grid)
    assert embedding.values == (7, 40)
    assert embedding.names == ("class 7", "class 40")
    assert embedding.spacing_mm == (1.5 if grid == "paper" else pytest.approx(1.0))
    query = case_of(np.zeros((50, 18, 9), np.int32), (0.7, 1.1, 4.0))
    labels = segment(tiny, embedding, query)
    assert labels.shape == query.image.shape
    assert set(np.unique(labels)) <= {0, 7, 40}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_input_gives_the_same_bits(strategy, tiny, reference):
    first, second = (STRATEGIES[strategy](tiny, reference) for _ in range(2))
    assert torch.equal(first.task.tokens, second.task.tokens)
    assert (segment(tiny, first, reference) == segment(tiny, second, reference)).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_query_in_another_orientation_gives_the_same_anatomy(strategy, tiny, reference):
    """The result follows the query's own axes: reorienting the file reorients the mask and nothing else."""
    embedding = STRATEGIES[strategy](tiny, reference)
    straight = segment(tiny, embedding, reference)
    image = nibabel.Nifti1Image(reference.image, reference.affine)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt("PSL")
        )
    )
    labels = segment(tiny, embedding, Case(np.asarray(turned.dataobj), turned.affine))
    back = nibabel.as_closest_canonical(nibabel.Nifti1Image(labels.astype(np.int32), turned.affine))
    assert (np.asarray(back.dataobj) == straight).mean() > 0.999


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_reference_is_refused(strategy, tiny):
    with pytest.raises(InputError, match="at least one class"):
        STRATEGIES[strategy](tiny, case_of(np.zeros((8, 8, 8), np.int32)))


def test_a_mask_larger_than_a_window_is_encoded_in_windows(tiny):
    labels = np.zeros((80, 20, 20), np.int32)
    labels[5:75, 5:15, 5:15] = 1
    embedding = STRATEGIES["one_shot"](tiny, case_of(labels, (1.5, 1.5, 1.5)), "paper")
    assert embedding.task.memory_keys.shape[1] == embedding.task.memory_masks.shape[2] > 0
    assert embedding.task.location[0, 0, 0] == pytest.approx(1.0)
    assert abs(float(embedding.task.location[0, 0, 1])) < 0.05  # the mask is centred along x
