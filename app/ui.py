"""The page: layout and events. What it computes is in service.py and session.py, what it draws in viewers/."""

import json
import os
import re
import signal
import sys
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from app.cli import parse_names
from app.service import Service
from app.session import Result, Sessions, segment_like
from app.viewers.colours import css
from app.viewers.mesh import mesh
from app.viewers.slices import PLANES, best_position, slices
from iris_core.case import InputError
from iris_core.strategies import STRATEGIES

SAMPLES = Path(__file__).parent / "samples"
FILE_TYPES = [".nii", ".gz", ".nrrd", ".mha"]
KEPT_S = 4 * 3600  # results and uploads are deleted when the page is closed, at the latest after this
KEEP_OPEN = None  # duration of a message that stays until it is closed

TITLE = """# Iris
Show one scan with its mask, and the same structures are segmented in your other scans."""
NOTICE = """**Not a medical device.** For research only: masks can be wrong and must not guide diagnosis or treatment.
Scans stay on the machine that runs this program and are deleted when you close the page."""
LEGEND = "R, L, A, P, S, I follow the orientation in the file's header. The patient's right is at the picture's left."

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#notice { border-left: 4px solid var(--primary-500); padding: 2px 14px; }
#status { min-height: 3.5rem; }
#volumes .table { max-height: 460px; overflow: auto; }
#volumes table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
#volumes th, #volumes td { padding: 6px 10px; text-align: right; border: 0; }
#volumes tr { border: 0; border-bottom: 1px solid var(--border-color-primary); }
#volumes th:first-child, #volumes td:first-child { text-align: left; }
#volumes th { font-weight: 600; overflow-wrap: anywhere; }
#volumes i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px; }
"""


class NoStore:
    """ASGI middleware: scans and masks are not left in the browser's cache."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def send_uncached(message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_uncached if "/file=" in scope.get("path", "") else send)


SETTINGS = {
    "theme": gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ),
    "css": CSS,
    "share": False,
    "ssr_mode": False,
    "run_history": False,
    "footer_links": [],
    "max_file_size": "2gb",
    "allowed_paths": [str(SAMPLES)],
    "app_kwargs": {"middleware": [Middleware(NoStore)]},
}


def launch(weights: str, device: str, host: str, port: int, sample: bool, open_browser: bool) -> None:
    """Serve the page until interrupted or terminated."""
    page = build(weights, device, sample)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that temporary folders are deleted
    page.launch(server_name=host, server_port=port, inbrowser=open_browser, **SETTINGS)


class Actions:
    """What the page's events call. Shared by all visitors; a visitor's token leads to their result."""

    def __init__(self, service: Service, sessions: Sessions, samples: dict) -> None:
        self.service, self.sessions, self.samples = service, sessions, samples

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
                raise gr.Error(f"Choose {what} first", duration=KEEP_OPEN)
        self.note_uploads(reference, mask, queries, request)
        token, folder = self.sessions.open(request.session_hash)

        def report(number: int, done: int, of: int) -> None:
            name = Path(queries[number]).name
            progress(
                (number + done / of) / len(queries),
                f"query {number + 1} of {len(queries)}: {name}, window {done} of {of}",
            )

        try:
            result = segment_like(
                self.service,
                folder,
                Path(reference),
                Path(mask),
                [Path(query) for query in queries],
                split_names(names),
                grid,
                strategy,
                report,
            )
            messages = [self.readable(failure) for failure in result.failures]
        except InputError as error:
            result, messages = None, [self.readable(error)]
        if not (result and result.masks):
            self.sessions.expire(token)
            raise gr.Error("<br>".join(messages), duration=KEEP_OPEN)
        for message in messages:
            gr.Warning(message, duration=KEEP_OPEN)
        self.sessions.keep(token, result)
        return (
            token,
            f"{len(result.masks)} of {len(queries)} queries segmented.",
            gr.Column(visible=True),
            gr.Dropdown([(scan.title, i) for i, scan in enumerate(result.scans)], value=1),
            volumes_table(result),
            [str(path) for path in result.masks],
        )

    def readable(self, error: InputError) -> str:
        """The terminal's message as HTML, with the names of files instead of their places on the server."""
        return escape(self.sessions.without_folders(str(error)))

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
            raise gr.Error(str(error)) from error


def build(weights: str = "iris-small", device: str = "auto", sample: bool = False) -> gr.Blocks:
    """The page with its own model, to be launched with SETTINGS. sample: begin with a sample, segmented.

    Raises InputError if the weights cannot be used.
    """
    samples = json.loads((SAMPLES / "samples.json").read_text())
    sessions = Sessions()
    actions = Actions(Service(weights, device), sessions, samples)
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.root)  # uploads too: private, and deleted at the end

    with gr.Blocks(title="Iris", analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        token = gr.State(None, time_to_live=KEPT_S, delete_callback=sessions.expire)
        gr.Markdown(TITLE)
        gr.Markdown(NOTICE, elem_id="notice")

        gr.Markdown("## 1 · Show")
        with gr.Row():
            reference = gr.File(label="Reference scan", file_types=FILE_TYPES, height=150, elem_id="reference")
            mask = gr.File(label="Its mask", file_types=FILE_TYPES, height=150, elem_id="mask")
            queries = gr.File(
                label="Queries: scans to segment",
                file_types=FILE_TYPES,
                file_count="multiple",
                height=150,
                elem_id="queries",
            )
        with gr.Accordion("Options", open=False, elem_id="options"), gr.Row():
            first = next(iter(STRATEGIES))
            strategy = gr.Dropdown(list(STRATEGIES), label="Strategy", info=explain(first), elem_id="strategy")
            grid = gr.Radio(
                ["auto", "paper"],
                value="auto",
                label="Working grid",
                info="auto chooses the voxel size from the reference; paper is 1.5 mm.",
                elem_id="grid",
            )
            names = gr.Textbox(
                label="Class names",
                info="What the values in the mask mean (optional).",
                placeholder="1=liver 2=spleen",
                elem_id="names",
            )
        with gr.Row():
            segment = gr.Button("Segment", variant="primary", scale=2, elem_id="segment")
            sample_buttons = {
                key: gr.Button(f"Sample: {entry['title']}", elem_id=f"sample-{key}") for key, entry in samples.items()
            }
        status = gr.Markdown(elem_id="status")

        with gr.Column(visible=False, elem_id="result") as result:
            gr.Markdown("## 2 · Look")
            with gr.Row():
                scan = gr.Dropdown([], label="Scan", scale=2, elem_id="scan")
                opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity of the masks", elem_id="opacity")
            images, sliders = [], []
            with gr.Row():
                for plane in PLANES:
                    with gr.Column(min_width=240):
                        images.append(gr.Image(**image_of(plane)))
                        sliders.append(gr.Slider(**slider_of(plane)))
            gr.Markdown(LEGEND, elem_id="legend")
            with gr.Row():
                with gr.Column(scale=3, min_width=400):
                    view3d = gr.Plot(label="3D", elem_id="view3d")
                with gr.Column(scale=2, min_width=300):
                    volumes = gr.HTML(elem_id="volumes")
            gr.Markdown("## 3 · Take away")
            downloads = gr.File(
                label="Masks, each on its query's own grid",
                file_count="multiple",
                interactive=False,
                elem_id="downloads",
            )

        private = {"api_visibility": "private"}
        quiet = private | {"show_progress": "hidden"}
        look = quiet | {"inputs": [token, scan, opacity], "outputs": [*sliders, view3d, *images]}

        def then_segment(event) -> None:
            event.then(actions.forget, token, [token, status, result], **quiet).then(
                actions.run,
                [reference, mask, queries, strategy, grid, names],
                [token, status, result, scan, volumes, downloads],
                show_progress_on=status,
                **private,
            ).success(actions.show, **look)

        fields = [reference, mask, queries, names]
        then_segment(segment.click(lambda: None, **quiet))
        for key, button in sample_buttons.items():
            then_segment(button.click(lambda key=key: actions.fill(key), None, fields, **quiet))
        if sample:
            then_segment(page.load(lambda: actions.fill("hippocampus"), None, fields, **quiet))

        files = [reference, mask, queries]
        gr.on([part.upload for part in files], actions.note_uploads, files, **quiet)
        strategy.input(lambda name: gr.Dropdown(info=explain(name)), strategy, strategy, **quiet)
        scan.input(actions.show, **look)
        gr.on(
            [slider.input for slider in (*sliders, opacity)],
            actions.move,
            [token, scan, *sliders, opacity],
            images,
            trigger_mode="always_last",
            concurrency_limit=None,
            **quiet,
        )
        page.unload(actions.close)
    return page.queue(default_concurrency_limit=1)


def image_of(plane: str) -> dict:
    return {
        "label": plane.capitalize(),
        "format": "png",
        "interactive": False,
        "buttons": ["fullscreen"],
        "alt_text": f"{plane} slice with its masks",
        "elem_id": f"slice-{plane}",
    }


def slider_of(plane: str) -> dict:
    return {
        "minimum": 1,
        "maximum": 2,
        "step": 1,
        "label": f"{plane.capitalize()} slice",
        "buttons": [],
        "elem_id": f"slider-{plane}",
    }


def split_names(text: str) -> dict[int, str]:
    """'1=left kidney, 2=spleen' → {1: 'left kidney', 2: 'spleen'}."""
    return parse_names(tuple(filter(None, re.split(r"[\s,;]+(?=-?\d+=)", text.strip()))))


def explain(strategy: str) -> str:
    """One sentence: the first line of the strategy's file."""
    return sys.modules[STRATEGIES[strategy].__module__].__doc__.splitlines()[0]


def volumes_table(result: Result) -> str:
    """Classes in rows, scans in columns, mL."""
    head = "".join(f"<th>{escape(scan.title)}</th>" for scan in result.scans)
    rows = []
    for i, name in enumerate(result.names):
        cells = "".join(f"<td>{scan.volumes_ml[name]:,.2f}</td>" for scan in result.scans)
        rows.append(f'<tr><td><i style="background: {css(i)}"></i>{escape(name)}</td>{cells}</tr>')
    return f'<div class="table"><table><tr><th>Volume in mL</th>{head}</tr>{"".join(rows)}</table></div>'


def pictures(result: Result, scan: int, position: tuple[int, int, int], opacity: float) -> list[str]:
    """The three slices as PNG files in the result's folder."""
    shown = result.scans[scan]
    files = []
    for plane, rgb in slices(shown.image, shown.labels, shown.spacing_mm, position, opacity).items():
        files.append(result.folder / "-".join(map(str, (plane, scan, *position, f"{opacity:.2f}.png"))))
        Image.fromarray(rgb).save(files[-1])
    return [str(file) for file in files]
