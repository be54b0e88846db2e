"""Uploads are shown as they come; what a person corrected stays, shows the task too, and comes back in no time."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from conftest import write_nifti

from app.drawing import draw
from app.explained import SHARES, explained
from app.preview import correct, partners, preview
from app.results import Result
from app.service import Service
from app.session import Sessions
from app.ui.actions import Actions
from app.ui.bench import Bench
from app.work import Inputs, run
from iris_core.case import InputError
from nnunet_adapters.images import read_reference

VISITOR = SimpleNamespace(session_hash="visitor")
CLASSES = {"Anterior": 1, "Posterior": 2}


@pytest.fixture(scope="module")
def service(eager_weights) -> Service:
    return Service(str(eager_weights), "cpu")


@pytest.fixture
def inputs(sample, tmp_path) -> Inputs:
    """One reference with its mask, three queries."""
    queries = tuple(shutil.copy(sample / "query.nii.gz", tmp_path / f"{name}.nii.gz") for name in "abc")
    shown = (sample / "reference.nii.gz",), (sample / "reference_mask.nii.gz",)
    return Inputs(*shown, queries=queries, names={1: "Anterior", 2: "Posterior"})


def quiet(what: str, share: float) -> None:
    pass


def test_uploads_are_shown_as_they_come(inputs, sample, tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    alone = preview(folder, replace(inputs, masks=(), queries=inputs.queries[:1]), Result(folder))
    assert [scan.title for scan in alone.scans] == ["reference: reference.nii.gz", "query: a.nii.gz"]
    assert not alone.classes and not alone.scans[0].labels.any() and not alone.masks and alone.trust is None

    both = preview(folder, replace(inputs, queries=inputs.queries[:2]), alone)
    mask = read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz").labels
    assert both.classes == CLASSES and (both.scans[0].labels > 0).sum() == (mask > 0).sum()
    assert both.scans[1] is alone.scans[1] and [scan.name for scan in both.queries] == ["a.nii.gz", "b.nii.gz"]

    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    spoilt = preview(folder, replace(inputs, queries=(inputs.queries[0], bad)), both)
    assert [scan.name for scan in spoilt.queries] == ["a.nii.gz"] and "bad.nii.gz" in str(spoilt.failures[0])


def test_masks_find_their_scans_before_all_are_there(tmp_path):
    a, b, mask = (tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "b_mask.nii.gz"))
    assert partners([a, b], [mask]) == {b: mask} and partners([a], [mask]) == {a: mask}
    assert partners([a, b], [tmp_path / "other.nii.gz"]) == {}


def test_a_corrected_query_keeps_its_mask_and_shows_the_task_too(service, inputs, sample, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    cache: dict = {}
    former = run(service, folders[0], inputs, quiet, cache)
    assert len(cache) == 1 and former.trust is not None and former.worst() in former.queries

    truth = sample / "query_mask.nii.gz"
    corrected = correct(former, 2, truth)
    labels = read_reference(sample / "query.nii.gz", truth).labels
    assert corrected.scans[2].corrected and corrected.scans[2].volumes_ml["Anterior"] > 0
    assert np.array_equal(read_reference(inputs.queries[1], corrected.scans[2].mask).labels, labels)
    assert corrected.trust == np.mean([former.scans[1].trust, former.scans[3].trust])
    with pytest.raises(InputError, match="nothing to correct"):
        correct(former, 0, truth)

    monkeypatch.setattr(service, "encode_each", lambda cases, *rest: _counted(service, cases, *rest))
    again = replace(
        inputs, corrected={inputs.queries[1]: truth}, trust={inputs.queries[0]: 0.9, inputs.queries[2]: 0.1}
    )
    result = run(service, folders[1], again, quiet, cache)
    assert len(cache) == 2 and COUNTED == [1]  # only the corrected one
    assert [scan.name for scan in result.queries] == ["c.nii.gz", "a.nii.gz", "b.nii.gz"]  # the worst first
    assert result.queries[2].corrected and not result.queries[2].confidence
    assert np.array_equal(read_reference(inputs.queries[1], result.queries[2].mask).labels, labels)
    assert [scan.name for scan in result.scans if scan.reference] == ["reference.nii.gz"]


COUNTED: list[int] = []


def _counted(service, cases, *rest):
    COUNTED.append(len(cases))
    return Service.encode_each(service, cases, *rest)


def test_who_found_what(service, inputs, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    result = run(service, folder, inputs, quiet)
    scan = explained(service, result.scans[1], result.classes)
    *halves, shares = scan.layers
    assert [layer.name for layer in halves] == ["registration alone", "the model alone"]
    assert shares.legend == SHARES and np.array_equal(shares.labels > 0, scan.labels > 0)
    both = (halves[0].labels == scan.labels) & (halves[1].labels == scan.labels) & (scan.labels > 0)
    assert np.array_equal(shares.labels == 1, both)
    with pytest.raises(InputError, match="not corrected"):
        explained(service, result.scans[0], result.classes)


def test_a_bad_correction_is_refused_and_changes_nothing(service, inputs, tmp_path):
    actions = Actions(service, Sessions())
    bench = Bench(actions)
    with actions.sessions.opened("visitor") as (token, folder):
        actions.sessions.keep(token, run(service, folder, inputs, quiet))
    before = actions.result(token)
    small = write_nifti(tmp_path / "m.nii.gz", np.ones((3, 3, 3), np.uint8))
    for mask, said in ((None, "corrected mask here first"), (small, "grid")):
        with pytest.raises(gr.Error, match=said):
            bench.correct(token, 1, mask, VISITOR)
    assert actions.result(token) is before and not actions.sessions.desk("visitor").corrected
    actions.sessions.close(VISITOR.session_hash)


def test_what_tells_of_the_mask_before_its_correction_is_no_longer_offered(service, inputs, sample, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    result = run(service, folder, inputs, quiet)
    assert result.extras[0].name == "everything.zip"
    changed = correct(result, 1, sample / "query_mask.nii.gz")
    assert [path.name for path in changed.extras] == ["iris.task.safetensors"]
    drawn, _ = draw(result, 1, np.array(changed.scans[1].labels), result.names, tmp_path)
    assert drawn.extras == changed.extras and drawn.masks == result.masks
