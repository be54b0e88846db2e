"""What MCP is told of the page's endpoints."""

import json
from types import SimpleNamespace

import gradio as gr

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
