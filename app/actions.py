"""What the page's events do: from what gradio hands over to what its components show."""

import json
import re
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from app.commands.shown import parse_names
from app.service import Service
from app.session import Result, Sessions, segment_like
from app.viewers.colours import css
from app.viewers.mesh import mesh
from app.viewers.slices import PLANES, best_position, slices
from iris_core.case import InputError

SAMPLES = Path(__file__).parent / "samples"
MESSAGE = {"duration": 30}  # seconds that a message stays on the page


class Actions:
    """What the page's events call. Shared by all visitors; a visitor's token leads to their result."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self.service, self.sessions = service, sessions
        self.samples = json.loads((SAMPLES / "samples.json").read_text("utf-8"))

    def fill(self, key: str) -> list:
        """A sample's reference, mask, queries and class names."""
        entry = self.samples[key]
        reference, mask, query = (str(SAMPLES / entry[part]) for part in ("reference", "mask", "query"))
        return [reference, mask, [query], " ".join(f"{value}={name}" for value, name in entry["names"].items())]

    def note_uploads(self, reference, mask, queries, request: gr.Request) -> None:
        self.sessions.note_uploads(request.session_hash, filter(None, [reference, mask, *(queries or [])]))

    def close(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)

    def forget(self, token):
        """Hide and delete the last result."""
        self.sessions.expire(token)
        return None, "", gr.Column(visible=False)

    def run(self, reference, mask, queries, strategy, grid, names, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        """Segment all queries: token, status, result, scans to choose from, volumes, masks."""
        for value, what in ((reference, "a reference scan"), (mask, "its mask"), (queries, "at least one query")):
            if not value:
                raise self.error(InputError(f"Choose {what} first"))
        self.note_uploads(reference, mask, queries, request)

        def report(number: int, done: int, of: int) -> None:
            at = f"query {number + 1} of {len(queries)}: {Path(queries[number]).name}, window {done} of {of}"
            progress((number + done / of) / len(queries), at)

        paths = Path(reference), Path(mask), [Path(query) for query in queries]
        with self.sessions.opened(request.session_hash) as (token, folder):
            try:
                result = segment_like(self.service, folder, *paths, split_names(names or ""), grid, strategy, report)
            except InputError as error:
                raise self.error(error) from error
            if not result.masks:
                raise self.error(*result.failures)
            self.sessions.keep(token, result)
        for failure in result.failures:
            gr.Warning(self.readable(failure), **MESSAGE)
        status = [f"{len(result.masks)} of {len(queries)} queries segmented.", *map(self.readable, result.failures)]
        return (
            token,
            "<br>".join(status),
            gr.Column(visible=True),
            gr.Dropdown([(scan.title, i) for i, scan in enumerate(result.scans)], value=1),
            volumes_table(result),
            [str(path) for path in result.masks],
        )

    def readable(self, error: InputError) -> str:
        """The terminal's message as HTML, with the names of files instead of their places on the server."""
        return escape(self.sessions.without_folders(str(error)))

    def error(self, *errors: InputError) -> gr.Error:
        return gr.Error("<br>".join(map(self.readable, errors)), print_exception=False, **MESSAGE)

    def show(self, token, scan, opacity):
        """Another scan: the three sliders, the surfaces, the three slices."""
        result = self.result(token)
        shown = result.scans[scan]
        position = best_position(shown.labels)
        sliders = (gr.Slider(value=position[a] + 1, maximum=max(2, shown.image.shape[a])) for a in PLANES.values())
        surfaces = mesh(shown.labels, shown.spacing_mm, result.names)
        return *sliders, surfaces, *pictures(result, scan, position, opacity)

    def move(self, token, scan, axial, coronal, sagittal, opacity):
        """The three slices at the sliders' positions, which count from 1."""
        result = self.result(token)
        limits = result.scans[scan].image.shape
        position = tuple(min(int(p), n) - 1 for p, n in zip((sagittal, coronal, axial), limits, strict=True))
        return pictures(result, scan, position, opacity)

    def result(self, token) -> Result:
        try:
            return self.sessions.result(token)
        except InputError as error:
            raise self.error(error) from error


def split_names(text: str) -> dict[int, str]:
    """'1=left kidney, 2=spleen' → {1: 'left kidney', 2: 'spleen'}."""
    return parse_names(tuple(filter(None, re.split(r"[\s,;]+(?=-?\d+=)", text.strip()))))


def volumes_table(result: Result) -> str:
    """Classes in rows, scans in columns, mL."""
    head = "".join(f"<th>{escape(scan.title)}</th>" for scan in result.scans)
    rows = []
    for i, name in enumerate(result.names):
        cells = "".join(f"<td>{scan.volumes_ml[name]:,.2f}</td>" for scan in result.scans)
        rows.append(f'<tr><td><i style="background: {css(i)}"></i>{escape(name)}</td>{cells}</tr>')
    return f'<div class="table"><table><tr><th>structure</th>{head}</tr>{"".join(rows)}</table></div>'


def pictures(result: Result, scan: int, position: tuple[int, int, int], opacity: float) -> list[str]:
    """The three slices as PNG files in the result's folder."""
    shown = result.scans[scan]
    files = []
    for plane, rgb in slices(shown.image, shown.labels, shown.spacing_mm, position, opacity).items():
        files.append(result.folder / "-".join(map(str, (plane, scan, *position, f"{opacity:.2f}.png"))))
        Image.fromarray(rgb).save(files[-1])
    return [str(file) for file in files]
