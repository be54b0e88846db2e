"""What visitors may take of the machine, and what they are told when there is no more of it."""

import threading
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from conftest import write_nifti
from dicom_files import write_series

from app import session
from app.cli import main
from app.limits import GIB, Limits
from app.service import Service
from app.session import Sessions
from app.ui.actions import Actions, inputs_of
from app.ui.bench import Bench
from iris_core.case import InputError
from nnunet_adapters import headers
from nnunet_adapters.images import read_scan


def test_a_space_sets_them_by_its_environment(monkeypatch, capsys):
    assert Limits.of_environment() == Limits()
    monkeypatch.setenv("IRIS_DISK_GIB", "0.5")
    monkeypatch.setenv("IRIS_VISITORS", "7")
    assert Limits.of_environment() == Limits(disk_gib=0.5, visitors=7)
    for text in ("many", "0", "-1", "nan"):
        monkeypatch.setenv("IRIS_DISK_GIB", text)
        with pytest.raises(InputError, match=r"(?i)disk_gib must be a positive number, got"):
            Limits.of_environment()
        assert main(["app"]) == 2
    assert "IRIS_DISK_GIB must be" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["app", "serve"])
def test_the_command_line_refuses_what_is_no_limit(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--limits.visitors", "0"])
    assert ended.value.code == 2 and "visitors must be a" in capsys.readouterr().err


def test_visitors_beyond_the_limit_are_refused_until_one_leaves():
    sessions = Sessions(Limits(visitors=2))
    for visitor in ("ann", "bob", "ann"):
        sessions.admit(visitor)
    with pytest.raises(InputError, match=r"All places .*2 visitors.*try again in a few minutes"):
        sessions.admit("eve")
    sessions.close("bob")
    sessions.admit("eve")


def test_a_page_that_is_loaded_again_keeps_its_place():
    sessions = Sessions(Limits(visitors=1))
    sessions.arrive("ann", "key")
    sessions.admit("ann")
    sessions.leave("ann")
    sessions.arrive("ann again", "key")
    sessions.admit("ann again")
    with pytest.raises(InputError):
        sessions.admit("ann")


def test_a_program_that_is_idle_gives_its_place_to_others_a_page_does_not(monkeypatch):
    sessions = Sessions(Limits(visitors=2))
    sessions.arrive("page", "key")
    for visitor in ("page", "program"):
        sessions.admit(visitor)
    monkeypatch.setattr(session, "PROGRAM_S", -1)
    with sessions.opened("program") as (token, folder):
        with pytest.raises(InputError):  # its run is under way
            sessions.admit("eve")
        sessions.keep(token, session.Result(folder))
    sessions.admit("eve")
    assert not folder.exists() and set(sessions._seen) == {"page", "eve"}
    monkeypatch.setattr(session, "KEPT_S", -1)
    sessions.admit("bob")
    assert "page" not in sessions._seen


def test_room_on_disk_is_that_of_all_visitors():
    sessions = Sessions(Limits(disk_gib=1000 / GIB))
    (sessions.root / "scan").write_bytes(bytes(600))
    (sessions.root / "series").mkdir()
    (sessions.root / "series" / "linked").hardlink_to(sessions.root / "scan")
    sessions.reserve(300)
    with pytest.raises(InputError, match=r"no room for this.*remove files"):
        sessions.reserve(200)
    sessions.release(300)
    sessions.require_room(400)
    (sessions.root / "more").write_bytes(bytes(500))
    sessions.require_room(400, measured_s=60)  # as it was measured
    for begin in (sessions.require_room, lambda: sessions.opened("ann").__enter__()):
        with pytest.raises(InputError, match="no room"):
            begin()
    assert sorted(path.name for path in sessions.root.iterdir()) == ["more", "scan", "series"]


@pytest.fixture
def most_ten():
    headers.limit_voxels(10)
    yield
    headers.limit_voxels(headers.MAX_VOXELS)


def test_larger_scans_are_refused_in_every_format(most_ten, tmp_path):
    import SimpleITK as sitk

    write_nifti(tmp_path / "scan.nii.gz", np.zeros((2, 2, 3), np.int16))
    for ending in ("nrrd", "mha"):
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")), str(tmp_path / f"scan.{ending}"))
    for path in (*tmp_path.glob("scan.*"), write_series(tmp_path / "series")):
        with pytest.raises(InputError, match="more than the limit of 10"):
            read_scan(path)
    assert read_scan(write_nifti(tmp_path / "small.nii.gz", np.zeros((2, 2, 2), np.int16))).image.size == 8


def values(scan):
    return [str(scan[0])], [str(scan[1])], "", None, [], [str(scan[0])], None, "auto", "auto", False, 3, 0, 40, 0.01


def test_visitors_without_a_place_are_told_so_whatever_they_do(tiny_weights, scan):
    actions = Actions(Service(str(tiny_weights), "cpu"), Sessions(Limits(visitors=1)))
    actions.sessions.admit("ann")
    request = SimpleNamespace(session_hash="eve")
    deeds = (
        lambda: Bench(actions).arrive("key", request),
        lambda: actions.fill("hippocampus")(request),
        lambda: actions.run(request, None, lambda *_: None, *values(scan)),
        lambda: actions.segment(inputs_of(*values(scan)), request, lambda *_: None),
        lambda: Bench(actions).preview(request, None, *values(scan)),
    )
    for deed in deeds:
        with pytest.raises(gr.Error, match="All places of this server are taken"):
            deed()
    assert not any(actions.sessions.root.iterdir()) and not actions.sessions._desks


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_ends_where_the_disk_has_no_more_room(tiny_weights, scan, monkeypatch):
    actions = Actions(Service(str(tiny_weights), "cpu"), Sessions(Limits(disk_gib=10**5 / GIB)))
    monkeypatch.setattr("app.ui.actions.MEASURED_S", 0)
    request, begun = SimpleNamespace(session_hash="ann"), threading.Event()

    def report(what, share):
        if "window" in what and not begun.is_set():
            begun.set()
            (actions.sessions.root / "another's scan").write_bytes(bytes(2 * 10**5))

    with pytest.raises(gr.Error, match="no room for this: all visitors together have"):
        actions.segment(inputs_of(*values(scan)), request, report)
    assert begun.is_set() and [path.name for path in actions.sessions.root.iterdir()] == ["another's scan"]
