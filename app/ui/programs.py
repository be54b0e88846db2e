"""The page's endpoints for programs: gradio_client, MCP. Their docstrings are what those show."""

from functools import partial

import gradio as gr

from app.results import Result
from app.ui.actions import Actions
from app.work import encode
from iris_core.case import InputError


def spell_out(page: gr.Blocks) -> None:
    """Describe inputs of several files so that MCP can take them.

    gradio (6.31) leaves references in the schema that MCP refuses, and would take each file for a string, which its own
    endpoint then refuses. So references are written out, and what it knows a file by, a constant, is a choice of one.
    """

    def spelt(node, known: dict):
        if isinstance(node, list):
            return [spelt(item, known) for item in node]
        if not isinstance(node, dict):
            return node
        known = known | node.get("$defs", {})
        if "$ref" in node:
            return spelt(known[node["$ref"].rsplit("/", 1)[-1]], known)
        spelling = {key: spelt(value, known) for key, value in node.items() if key not in ("$defs", "const")}
        return spelling | ({"enum": [node["const"]]} if "const" in node else {})

    for block in page.blocks.values():
        if isinstance(block, gr.File) and block.file_count == "multiple":
            block.api_info = partial(spelt, block.api_info(), {})


class Programs:
    def __init__(self, actions: Actions) -> None:
        self.actions = actions

    def segment(
        self,
        request: gr.Request,
        references=None,
        masks=None,
        names=None,
        tasks=None,
        classes=None,
        queries=None,
        truths=None,
        strategy="auto",
        grid="auto",
        confidence=True,
        top_k=3,
        seed=0,
        steps=40,
        rate=0.01,
    ):
        """Segment queries as references with their masks, saved tasks, or known classes show.

        Returns the masks, and statistics: a row for each query and structure.
        """
        shown = references, masks, names, tasks, classes, queries, truths
        inputs = self.actions.inputs(*shown, strategy, grid, confidence, top_k, seed, steps, rate)
        _, result = self.actions.segment(inputs, request, lambda what, share: None)
        for failure in result.failures:
            gr.Warning(self.actions.readable(failure))
        return [str(path) for path in result.masks], list(result.rows)

    def encode(
        self,
        request: gr.Request,
        references=None,
        masks=None,
        names=None,
        tasks=None,
        strategy="auto",
        grid="auto",
        classes=None,
    ):
        """Write what references with their masks, or known classes, show as a task file, to segment with later."""
        inputs = self.actions.inputs(references, masks, names, tasks, classes, None, None, strategy, grid, False)
        self.actions.admit(request)
        self.actions.note(inputs, request)
        with self.actions.sessions.opened(request.session_hash) as (token, folder):
            try:
                task = encode(self.actions.service, inputs, folder)
            except InputError as error:
                raise self.actions.error(error) from error
            self.actions.sessions.keep(token, Result(folder))
        return str(task)

    def classes(self) -> dict:
        """The structures that the weights know, for segment's classes: updates in training, spacing, intensities."""
        return self.actions.service.classes()
