"""What MCP is told of the page's endpoints, and what events make of uploads."""

import json
from types import SimpleNamespace

import gradio as gr
from gradio.data_classes import FileData, ListFiles

import app.ui.layout  # noqa: F401
from app.ui.programs import spell_out


def test_several_files_are_described_without_references():
    many, one = gr.File(file_count="multiple"), gr.File()
    before = one.api_info()
    spell_out(SimpleNamespace(blocks={1: many, 2: one, 3: gr.JSON()}))
    assert one.api_info() == before
    told = many.api_info_as_input()
    assert "$ref" not in json.dumps(told) and "$defs" not in json.dumps(told)
    item = told["items"]
    assert item["required"] == ["path"]
    assert item["properties"]["meta"]["properties"]["_type"]["enum"] == ["gradio.FileData"]


def test_no_empty_file_lies_beside_an_upload(tmp_path, monkeypatch):
    """gradio's own component lets one lie there, each time an event takes the upload."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    files = [FileData(path=str(tmp_path / name)) for name in ("a.nii.gz", "b.nii.gz")]
    several, one = gr.File(file_count="multiple"), gr.File()
    assert several.preprocess(ListFiles(files)) == [file.path for file in files]
    assert one.preprocess(files[0]) == files[0].path and one.preprocess(None) is None
    assert not list(tmp_path.iterdir())
