"""Visitors see their own results only, and what they leave is deleted. The page's masks are those of `iris segment`."""

import shutil
import threading
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from app.actions import split_names, volumes_table
from app.service import Service
from app.session import Result, Sessions, segment_like
from iris_core import checkpoint
from iris_core.case import InputError
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris
from nnunet_adapters.folder import segment_queries
from nnunet_adapters.images import read_reference

NAMES = {1: "Anterior", 2: "Posterior"}


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Service:
    """Untrained, but eager: it marks both classes."""
    torch.manual_seed(0)
    model = Iris(PRESETS["tiny"])
    with torch.no_grad():
        model.mask_decoder.bias.fill_(0.5)
    folder = tmp_path_factory.mktemp("eager")
    checkpoint.save(folder, model, MemoryBank(), {})
    return Service(str(folder), "cpu")


def run(service, folder, sample, queries, progress=lambda number, done, of: None) -> Result:
    reference, mask = sample / "reference.nii.gz", sample / "reference_mask.nii.gz"
    return segment_like(service, folder, reference, mask, queries, NAMES, "auto", "one_shot", progress)


@pytest.fixture(scope="module")
def ran(service, sample, tmp_path_factory) -> tuple[Result, list]:
    """A result for a query with a name of its own, and what its progress said."""
    folder, steps = tmp_path_factory.mktemp("ran"), []
    query = shutil.copy(sample / "query.nii.gz", folder / "a patient.nii.gz")
    return run(service, folder, sample, [query], lambda *step: steps.append(step)), steps


def some_result(folder) -> Result:
    return Result(folder, (), (), (), ())


def upload(sessions: Sessions, digit: str, name: str):
    """A file where gradio puts uploads: in a folder named after the contents."""
    path = sessions.root / (digit * 64) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"scan")
    return path


def test_masks_are_those_of_the_command_line(ran, service, sample, tmp_path):
    result, steps = ran
    query = result.folder / "a patient.nii.gz"
    reference = read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz", NAMES)
    plan = service.plan("one_shot", [reference])
    assert segment_queries(service.segment, plan, lambda *_: {}, [query], (), tmp_path, False, {}) == 0
    ours, theirs = (nibabel.load(path) for path in (*result.masks, tmp_path / "a patient.nii.gz"))
    assert result.masks[0].name == "a patient.nii.gz"
    assert len(np.unique(ours.dataobj)) > 1
    assert np.array_equal(ours.dataobj, theirs.dataobj) and ours.header == theirs.header
    assert steps[0][:2] == (0, 0) and steps[-1][1] == steps[-1][2]


def test_viewers_get_both_scans_with_compact_labels(ran, sample):
    reference, query = ran[0].scans
    given = nibabel.load(sample / "reference_mask.nii.gz")
    assert np.array_equal(reference.labels, given.dataobj)  # RAS+ in the file, classes 1 and 2
    assert reference.image.dtype == np.uint8 and reference.labels.dtype == np.uint8
    assert reference.title == "reference: reference.nii.gz" and query.title == "query: a patient.nii.gz"
    assert query.image.shape == query.labels.shape == nibabel.load(sample / "query.nii.gz").shape
    voxel_ml = np.prod(given.header.get_zooms()) / 1000
    assert reference.volumes_ml["Anterior"] == pytest.approx((np.asarray(given.dataobj) == 1).sum() * voxel_ml)


def test_classes_are_counted_in_order_whatever_their_values(service, sample, tmp_path):
    given = nibabel.load(sample / "reference_mask.nii.gz")
    odd = np.choose(np.asarray(given.dataobj), [0, 300, -4]).astype(np.int16)
    leftwards = given.affine @ np.diag([-1, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(odd[::-1], leftwards), tmp_path / "odd.nii.gz")
    scan = np.asarray(nibabel.load(sample / "reference.nii.gz").dataobj)
    nibabel.save(nibabel.Nifti1Image(scan[::-1], leftwards), tmp_path / "scan.nii.gz")
    paths = tmp_path / "scan.nii.gz", tmp_path / "odd.nii.gz", [sample / "query.nii.gz"]
    result = segment_like(service, tmp_path, *paths, {}, "auto", "one_shot", lambda *step: None)
    assert result.names == ("class -4", "class 300")
    assert np.array_equal(result.scans[0].labels, np.select([odd == -4, odd == 300], [1, 2]))


def test_a_bad_query_does_not_stop_the_others(service, sample, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    result = run(service, tmp_path, sample, [bad, sample / "query.nii.gz"])
    assert [mask.name for mask in result.masks] == ["query.nii.gz"]
    assert len(result.failures) == 1 and "bad.nii.gz" in str(result.failures[0])


def test_files_that_are_gone_and_names_that_clash_are_refused(service, sample, tmp_path):
    with pytest.raises(InputError, match=r"^gone\.nii\.gz: is no longer kept"):
        run(service, tmp_path, sample, [tmp_path / "gone.nii.gz"])
    with pytest.raises(InputError, match="would overwrite"):
        run(service, tmp_path, sample, [sample / "query.nii.gz"] * 2)


def test_a_token_leads_to_its_result_and_nothing_else_does():
    sessions = Sessions()
    with sessions.opened("ann") as (ann, folder):
        sessions.keep(ann, some_result(folder))
    with sessions.opened("bob") as (bob, folder):
        sessions.keep(bob, some_result(folder))
    assert ann != bob and len(ann) > 40
    assert sessions.result(ann).folder == sessions.root / ann
    assert sessions.root.stat().st_mode & 0o077 == 0
    for other in (None, "", "ann", "../" + ann):
        with pytest.raises(InputError, match="no longer kept"):
            sessions.result(other)


def test_results_are_deleted_when_replaced_expired_or_left():
    sessions = Sessions()
    folders = []
    for _ in range(2):
        with sessions.opened("ann") as (token, folder):
            (folder / "image.npy").write_bytes(b"1")
            sessions.keep(token, some_result(folder))
            folders.append(folder)
    assert not folders[0].exists() and folders[1].exists()
    sessions.expire(token)
    assert not folders[1].exists()
    with sessions.opened("ann") as (token, folder):
        sessions.keep(token, some_result(folder))
    sessions.close("ann")
    assert not folder.exists()
    with pytest.raises(InputError):
        sessions.result(token)


def test_nothing_stays_of_a_run_that_fails_or_whose_visitor_leaves():
    sessions = Sessions()
    with pytest.raises(ZeroDivisionError), sessions.opened("ann") as (_, folder):
        (folder / "image.npy").write_bytes(b"1")
        raise ZeroDivisionError
    assert not folder.exists()
    with sessions.opened("ann") as (token, folder):
        thread = threading.Thread(target=sessions.close, args=("ann",))
        thread.start()
        thread.join()
        (folder / "masks").mkdir(parents=True)
        sessions.keep(token, some_result(folder))
    assert not folder.exists()


def test_uploads_go_with_the_last_visitor_who_made_them(tmp_path):
    sessions = Sessions()
    own, shared = upload(sessions, "a", "own.nii.gz"), upload(sessions, "b", "shared.nii.gz")
    sessions.note_uploads("ann", [str(own), str(shared)])
    sessions.note_uploads("bob", [str(shared)])
    foreign = tmp_path / "keep" / "scan.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"1")
    sessions.note_uploads("ann", [foreign])
    sessions.close("ann")
    assert not own.exists() and shared.exists() and foreign.exists()
    sessions.close("bob")
    assert not shared.exists()
    sessions.close("nobody")


def test_messages_name_files_not_folders():
    sessions = Sessions()
    path = upload(sessions, "c", "a scan.nii.gz")
    assert sessions.without_folders(f"{path}: cut off, {path}") == "a scan.nii.gz: cut off, a scan.nii.gz"


def test_class_names_as_people_type_them():
    assert split_names("") == {}
    assert split_names(" 1=left kidney, 2=spleen\n10=C3 vertebra ") == {
        1: "left kidney",
        2: "spleen",
        10: "C3 vertebra",
    }
    with pytest.raises(InputError, match="value=name"):
        split_names("liver")


def test_table_escapes_names(ran):
    scan = replace(ran[0].scans[0], title="<b>scan", volumes_ml={"<img src=x>": 1.0})
    table = volumes_table(Result(ran[0].folder, ("<img src=x>",), (scan,), (), ()))
    assert "<img" not in table and "<b>" not in table and "&lt;img" in table and "1.00" in table
