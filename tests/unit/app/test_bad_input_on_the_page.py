"""The page refuses what the terminal refuses, with the same words, and keeps nothing."""

from html import unescape
from types import SimpleNamespace

import gradio as gr
import pytest
from bad_files import BAD_MASKS, BAD_SCANS

from app.cli import main
from app.service import Service
from app.session import Sessions
from app.ui import page
from app.ui.actions import Actions, asked_for

VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def actions(tiny_weights) -> Actions:
    return Actions(Service(str(tiny_weights), "cpu"), Sessions())


def both(actions, weights, reference, mask, tmp_path, capsys) -> tuple[str, str]:
    """What the page says and what the terminal says of one reference and mask."""
    shown = [str(reference)], [str(mask)], "", None, [], [str(mask)], None
    with pytest.raises(gr.Error) as refused:
        actions.segment(asked_for(*shown, "one_shot", "auto", False), VISITOR, lambda *_: None)
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
