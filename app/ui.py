"""The page: layout and events. What the events do is in actions.py."""

import os
import signal
import sys

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from app.actions import SAMPLES, Actions
from app.service import Service
from app.session import Sessions
from app.viewers.slices import PLANES
from iris_core.case import InputError
from iris_core.strategies import STRATEGIES

FILE_TYPES = [".nii", ".gz", ".nrrd", ".mha"]
KEPT_S = 4 * 3600  # results and uploads are deleted when the page is closed, at the latest after this

TITLE = """# Iris
Show one scan with its mask, and the same structures are segmented in your other scans."""
NOTICE = """**Not a medical device.** For research only: masks can be wrong and must not guide diagnosis or treatment.
Scans stay on the machine that runs this program and are deleted when you close the page."""
LEGEND = "Axial and coronal slices have the patient's right at the left. Letters follow the file's header."

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#notice { border-left: 4px solid var(--primary-500); padding: 2px 14px; }
#status { min-height: 4.5rem; }
#volumes .table { max-height: 410px; overflow: auto; }
#volumes table { width: 100%; border: 0; border-collapse: collapse; font-variant-numeric: tabular-nums; }
#volumes th, #volumes td { padding: 6px 10px; text-align: right; border: 0; }
#volumes tr { border: 0; border-bottom: 1px solid var(--border-color-primary); }
#volumes th:first-child, #volumes td:first-child { text-align: left; }
#volumes th { position: sticky; top: 0; background: var(--block-background-fill); overflow-wrap: anywhere; }
#volumes th:first-child { min-width: 8rem; }
#volumes i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px; }
#downloads .label-clear-button { display: none; }
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
    """Build the page and serve it."""
    page = build(weights, device, sample)
    try:
        serve(page, server_name=host, server_port=port, inbrowser=open_browser)
    except OSError as error:
        raise InputError(f"--port and --host must be free to use, got {port} and {host} ({error})") from error


def serve(page: gr.Blocks, **options) -> None:
    """Serve until interrupted or terminated; then everything that visitors left is deleted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    page.launch(**SETTINGS, **options)


def build(weights: str = "iris-small", device: str = "auto", sample: bool = False) -> gr.Blocks:
    """The page with its own model, for serve(). sample: begin with a sample, segmented.

    Raises InputError if the weights cannot be used.
    """
    sessions = Sessions()
    actions = Actions(Service(weights, device), sessions)
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.root)  # uploads too: private, and deleted at the end

    with gr.Blocks(title="Iris", analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        token = gr.State(None, time_to_live=KEPT_S, delete_callback=sessions.expire)
        gr.Markdown(TITLE)
        gr.Markdown(NOTICE, elem_id="notice")

        gr.Markdown("## 1 · Show")
        with gr.Row(equal_height=True):
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
            offered = [name for name in STRATEGIES if name != "memory_bank"]  # the page shows a reference
            strategy = gr.Dropdown(offered, label="Strategy", info=explain(first), elem_id="strategy")
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
                key: gr.Button(f"Sample: {entry['title']}", elem_id=f"sample-{key}")
                for key, entry in actions.samples.items()
            }
        status = gr.HTML(elem_id="status")

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
                    volumes = gr.HTML(
                        label="Volumes in mL", show_label=True, container=True, padding=True, elem_id="volumes"
                    )
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

        forget = quiet | {"fn": actions.forget, "inputs": token, "outputs": [token, status, result]}
        fields = [reference, mask, queries, names]

        def then_segment(event) -> None:
            event.then(
                actions.run,
                [reference, mask, queries, strategy, grid, names],
                [token, status, result, scan, volumes, downloads],
                show_progress_on=status,
                concurrency_id="model",
                **private,
            ).success(actions.show, **look)

        then_segment(segment.click(**forget))
        for key, button in sample_buttons.items():
            then_segment(button.click(**forget).then(lambda key=key: actions.fill(key), None, fields, **quiet))
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


def explain(strategy: str) -> str:
    """One sentence: the first line of the strategy's file."""
    return sys.modules[STRATEGIES[strategy].__module__].__doc__.splitlines()[0]
