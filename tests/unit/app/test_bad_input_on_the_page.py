"""The page refuses what the terminal refuses, with the same words, and keeps nothing."""

import zipfile
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from bad_files import BAD_MASKS, BAD_SCANS
from conftest import write_nifti
from dicom_files import SHAPE, write_series

from app import work
from app.cli import main
from app.service import Service
from app.session import Sessions
from app.ui import page
from app.ui.actions import Actions, inputs_of
from app.ui.bench import Bench
from nnunet_adapters.images import read_scan

VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def actions(tiny_weights) -> Actions:
    return Actions(Service(str(tiny_weights), "cpu"), Sessions())


def both(actions, weights, reference, mask, tmp_path, capsys) -> tuple[str, str]:
    """What the page says and what the terminal says of one reference and mask."""
    shown = [str(reference)], [str(mask)], "", None, [], [str(mask)], None
    with pytest.raises(gr.Error) as refused:
        actions.segment(inputs_of(*shown, "one_shot", "auto", False), VISITOR, lambda *_: None)
    assert not any(actions.sessions.root.iterdir())
    arguments = ["--reference", reference, "--mask", mask, "--query", mask, "--output", tmp_path / "out"]
    assert main([str(a) for a in ["segment", "--weights", weights, *arguments]]) == 2
    assert not (tmp_path / "out").exists()
    return refused.value.message, capsys.readouterr().err.strip().removeprefix("iris: error: ")


@pytest.mark.parametrize("kind", sorted(set(BAD_SCANS) - {"missing"}))  # what was uploaded is there
def test_a_bad_reference(kind, actions, tiny_weights, scan, tmp_path, capsys):
    make, _ = BAD_SCANS[kind]
    (tmp_path / "bad").mkdir()
    path = make(tmp_path / "bad" / "scan.nii.gz")
    ours, terminal = both(actions, tiny_weights, path, scan[1], tmp_path, capsys)
    assert unescape(ours) == terminal


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask(kind, actions, tiny_weights, scan, tmp_path, capsys):
    make, _ = BAD_MASKS[kind]
    ours, terminal = both(actions, tiny_weights, scan[0], make(tmp_path / "bad.nii.gz"), tmp_path, capsys)
    assert unescape(ours) == terminal


def test_tools_without_their_package_are_refused(tiny_weights, monkeypatch, capsys):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert main(["app", "--mcp", "--weights", str(tiny_weights)]) == 2
    assert "pip install 'gradio[mcp]'" in capsys.readouterr().err


def run_of(actions, *values):
    """Status, cancel, token, …"""
    return actions.run(VISITOR, None, lambda *_: None, *values)


@pytest.mark.filterwarnings("ignore::UserWarning")  # gr.Warning's, where there is no browser
def test_fields_that_are_empty_or_wrong_are_said_not_raised(actions, scan):
    shown = [str(scan[0])], [str(scan[1])]
    for names, seed, said in (("liver", 0, "value=name"), ("", None, "must be numbers"), ("", -1, "seed and steps")):
        values = *shown, names, None, [], [str(scan[0])], None, "retrieval", "auto", False, 3, seed, 40, 0.01
        assert said in run_of(actions, *values)[0]
        assert said in actions.look_before(VISITOR, *values)


def test_a_run_that_another_one_replaced_leaves_the_page_alone(actions, scan, monkeypatch):
    """Segment, pressed twice: the first run ends, and says nothing over the second."""
    values = [str(scan[0])], [str(scan[1])], "", None, [], [str(scan[0])], None, "auto", "auto", False, 3, 0, 40, 0.01
    actions.begin(VISITOR)
    read, second = work.read_scan, []

    def pressed_again(path):
        if not second:
            actions.begin(VISITOR)
            second.append(None)
            second[0] = run_of(actions, *values)  # its folder takes the place of the first's
        return read(path)

    monkeypatch.setattr(work, "read_scan", pressed_again)
    assert run_of(actions, *values) == gr.skip()
    status, _, token, *_ = second[0]
    assert "1 of 1" in status and actions.sessions.result(token).masks[0].is_file()
    actions.sessions.close(VISITOR.session_hash)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom_references_are_paired_as_they_are_run(actions, tmp_path):
    """Loose files and zips of a series: one reference each, before the run, and a query that was corrected."""
    series, other = write_series(tmp_path / "loose"), write_series(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        for file in other.iterdir():
            packed.write(file, file.name)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 2:5, 1:4] = 1
    masks = [str(write_nifti(tmp_path / f"{name}.nii.gz", mask, read_scan(series).affine)) for name in ("a", "b_mask")]
    scans = [*map(str, sorted(series.iterdir())), str(tmp_path / "b.zip")]
    values = scans, masks, "", None, [], [scans[-1]], None, "auto", "auto", False, 3, 0, 40, 0.01
    said = actions.look_before(VISITOR, *values)
    assert "series with a.nii.gz; b with b_mask.nii.gz" in said and "One query" in said
    token = run_of(actions, *values)[2]
    Bench(actions).correct(token, 2, masks[1], VISITOR)
    result = actions.result(run_of(actions, *values)[2])
    assert [scan.name for scan in result.scans if scan.reference] == ["series", "b"]
    assert result.queries[0].corrected and np.array_equal(result.queries[0].labels > 0, result.scans[1].labels > 0)
    actions.sessions.close(VISITOR.session_hash)


def test_a_visitor_who_leaves_takes_no_sample_from_another(actions):
    other = SimpleNamespace(session_hash="other")
    fill = actions.fill("hippocampus")
    (ours, *_), (theirs, *_) = fill(VISITOR)[0], fill(other)[0]
    actions.sessions.close(other.session_hash)
    assert Path(ours).is_file() and not Path(theirs).exists()
    actions.sessions.close(VISITOR.session_hash)
    assert not Path(ours).exists()


@pytest.mark.parametrize("end", ["another run", "leaves"])
def test_a_program_is_told_that_its_run_was_replaced_and_leaving_ends_it(actions, scan, end):
    inputs = inputs_of([scan[0]], [scan[1]], "", None, [], [scan[0]], None, "auto", "auto", False)
    steps = []

    def report(what, share):
        steps.append(what)
        if len(steps) == 2:
            actions.sessions.close(VISITOR.session_hash) if end == "leaves" else actions.segment(
                inputs, VISITOR, lambda *_: None
            )

    with pytest.raises(gr.Error, match="took its place"):
        actions.segment(inputs, VISITOR, report)
    assert len(steps) == 2
    actions.sessions.close(VISITOR.session_hash)
