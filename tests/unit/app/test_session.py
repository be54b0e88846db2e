"""Visitors see their own results only, and what they leave is deleted."""

import subprocess
import sys
import tempfile
import threading
import time

import pytest

from app import session
from app.results import Result
from app.session import Sessions
from iris_core.case import InputError
from iris_core.files import HERE


def some_result(folder) -> Result:
    return Result(folder)


def upload(sessions: Sessions, digit: str, name: str):
    """A file where gradio puts uploads: in a folder named after the contents."""
    path = sessions.root / (digit * 64) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"scan")
    return path


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


def test_what_a_killed_server_kept_is_deleted_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    patient = tmp_path / f"{HERE}-{killed.pid}-page-x" / "token" / "scan.nii.gz"
    patient.parent.mkdir(parents=True)
    patient.write_text("scan")
    sessions = Sessions()
    assert list(tmp_path.iterdir()) == [sessions.root]


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


def test_a_run_whose_turn_comes_after_its_page_was_closed_leaves_nothing(monkeypatch):
    monkeypatch.setattr(session, "GRACE_S", 0.05)
    monkeypatch.setattr(session, "GONE", 2)
    sessions = Sessions()
    sessions.admit("ann")
    sessions.leave("ann")
    time.sleep(0.5)
    with pytest.raises(InputError, match="page was closed"):
        sessions.admit("ann")
    sessions.watch("ann")  # it had only lost its connection
    sessions.admit("ann")
    sessions.leave("ann")
    sessions.watch("ann")
    time.sleep(0.5)
    sessions.admit("ann")
    for other in ("ann", "bob", "cleo"):
        sessions.leave(other)
        time.sleep(0.5)
    sessions.admit("ann")  # two are remembered


def test_a_result_stays_until_the_next_one_is_there():
    sessions = Sessions()
    with sessions.opened("ann") as (former, folder):
        assert sessions.busy("ann")
        sessions.keep(former, some_result(folder))
    with pytest.raises(ZeroDivisionError), sessions.opened("ann"):
        raise ZeroDivisionError
    assert sessions.result(former).folder.exists() and not sessions.busy("ann")
    with sessions.opened("ann") as (token, new):
        sessions.change(former, some_result(folder / "changed"))
        assert sessions.result(former).folder.name == "changed"
        sessions.keep(token, some_result(new))
    assert sessions.find(former) is None and not folder.exists() and new.exists()
    with sessions.opened("ann"):
        sessions.close("ann")
    assert not new.exists()


def test_uploads_go_with_the_last_visitor_who_made_them(tmp_path):
    sessions = Sessions()
    own, shared = upload(sessions, "a", "own.nii.gz"), upload(sessions, "b", "shared.nii.gz")
    sessions.note_uploads("ann", [str(own), str(shared)])
    beside = upload(sessions, "a", "the same under another name.nii.gz")
    sessions.note_uploads("bob", [str(shared), str(beside)])
    foreign = tmp_path / "keep" / "scan.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"1")
    sessions.note_uploads("ann", [foreign])
    sessions.close("ann")
    assert not own.exists() and shared.exists() and foreign.exists() and beside.exists()
    sessions.close("bob")
    assert not shared.exists() and not beside.parent.exists()
    sessions.close("nobody")


def test_messages_name_files_not_folders():
    sessions = Sessions()
    path = upload(sessions, "c", "a scan.nii.gz")
    assert sessions.without_folders(f"{path}: cut off, {path}") == "a scan.nii.gz: cut off, a scan.nii.gz"


def test_results_of_programs_that_never_say_goodbye_are_deleted_in_time(monkeypatch):
    sessions = Sessions()
    with sessions.opened("ann") as (ann, folder):
        sessions.keep(ann, some_result(folder))
    with sessions.opened("bob"):
        assert folder.exists()
    monkeypatch.setattr(session, "KEPT_S", -1)
    with sessions.opened("eve"):
        assert not folder.exists()


def test_messages_hide_where_zips_are_unpacked():
    sessions = Sessions()
    with sessions.opened("ann") as (_, folder):
        for below in ("", "references/", "queries/"):
            for place in (folder, sessions.root / "tmp1a2b3c4d"):
                assert sessions.without_folders(f"{place}/{below}series 1: is empty") == "series 1: is empty"


def test_a_page_that_is_loaded_again_finds_everything_and_a_copy_of_it_nothing(monkeypatch):
    monkeypatch.setattr(session, "ARRIVAL_S", 0.2)
    sessions = Sessions()
    assert sessions.arrive("ann", "key") is None
    scan = upload(sessions, "a", "scan.nii.gz")
    sessions.note_uploads("ann", [scan])
    sessions.desk("ann").fields = ("scan",)
    mask = sessions.drawings("ann", "scan") / "mask.nii.gz"
    mask.write_bytes(b"1")
    sessions.note_uploads("ann", [mask])
    with sessions.opened("ann") as (token, folder):
        sessions.keep(token, some_result(folder))
    assert sessions.arrive("copy of ann's tab", "key") is None and not sessions.desk("copy of ann's tab").fields
    sessions.leave("ann")
    assert sessions.arrive("bob", "another key") is None
    assert sessions.arrive("ann again", "key") == token
    assert sessions.desk("ann again").fields == ("scan",)
    assert sessions.drawings("ann again", "scan") == mask.parent and mask.exists()
    monkeypatch.setattr(session, "GRACE_S", 0.1)
    sessions.leave("ann again")
    deadline = time.monotonic() + 10
    while folder.exists() or scan.exists() or mask.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sessions.arrive("ann, too late", "key") is None and not sessions.desk("ann, too late").fields
