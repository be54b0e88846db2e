"""The page: its sections, and what each event does with which of their components."""

import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.limits import GIB, Limits
from app.sample_scans import SAMPLES
from app.service import Service
from app.session import KEPT_S, Sessions
from app.ui import layout
from app.ui.actions import Actions
from app.ui.bench import Bench
from app.ui.choices import follow_the_result
from app.ui.guard import Files, Guard, Room, fetch_nothing
from app.ui.looks import CSS, HEAD, KEY, THEME
from app.ui.programs import Programs, spell_out
from app.ui.views import Views
from app.ui.workbench import FOLDER, ROUTE, Workbench
from app.viewers.slices import PLANES
from iris_core.case import InputError
from nnunet_adapters.headers import limit_voxels

AT_ONCE = 2  # visitors whose runs proceed side by side, so that a big volume does not block everybody
PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}
LIVE = QUIET | {"trigger_mode": "always_last", "concurrency_limit": None}


SETTINGS = {
    "theme": THEME,
    "css": CSS,
    "head": HEAD,
    "share": False,
    "ssr_mode": False,
    "run_history": False,
    "footer_links": [],
    "allowed_paths": [str(SAMPLES)],
}


def launch(
    weights: str,
    device: str,
    host: str,
    port: int,
    sample: bool,
    open_browser: bool,
    mcp: bool,
    limits: Limits,
    embed: Sequence[str],
) -> None:
    """Build the page and serve it. embed: origins whose pages may show it in a frame."""
    if wrong := [origin for origin in embed if not re.fullmatch(r"https?://[\w.-]+(:\d+)?", origin)]:
        raise InputError(f"--embed must be addresses like https://huggingface.co, without a path, got {wrong}")
    if mcp and not find_spec("mcp"):
        raise InputError("--mcp needs gradio's own set of packages: pip install 'gradio[mcp]'")
    page = build(weights, device, sample, limits)
    if mcp:
        spell_out(page)
    serve_at(host, port, page, embed=embed, inbrowser=open_browser, mcp_server=mcp)


def serve_at(host: str, port: int, page: gr.Blocks, **options) -> None:
    """``serve``. Raises InputError where that address is not free."""
    try:
        serve(page, server_name=host, server_port=port, **options)
    except OSError as error:
        raise InputError(f"--port and --host must be free to use, got {port} and {host} ({error})") from error


def serve(page: gr.Blocks, middleware: Sequence[Middleware] = (), embed: Sequence[str] = (), **options) -> None:
    """Serve what ``build`` made until interrupted or terminated; then everything that visitors left is deleted.

    embed: origins whose pages may show this one in a frame.
    """
    sessions = page.sessions
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    routes = [Mount(ROUTE, app=StaticFiles(directory=FOLDER))]
    guard = [Middleware(Guard, embed=embed), *middleware, Middleware(Room, sessions=sessions), Middleware(Files)]
    if not options.get("mcp_server"):  # its clients can send no file
        fetch_nothing(page)
    options |= {"app_kwargs": {"middleware": guard, "routes": routes}}
    page.launch(**SETTINGS, max_file_size=round(sessions.limits.upload_gib * GIB), **options)


def build(
    weights: str = "iris-small", device: str = "auto", sample: bool = False, limits: Limits | None = None
) -> gr.Blocks:
    """The page with its own model, for serve(). sample: begin with a sample, segmented. limits: by default the
    environment's.

    Raises InputError if the weights or the limits cannot be used.
    """
    # Seconds to import, and wanted only to measure: it comes in while the page is opened.
    threading.Thread(target=import_module, args=("monai.metrics",), daemon=True).start()
    actions = new_actions(weights, device, limits or Limits.of_environment())
    sessions = actions.sessions

    with gr.Blocks(title="Iris", analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        token = gr.State(None, time_to_live=KEPT_S, delete_callback=sessions.expire)
        layout.head()
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=4, min_width=400):
                show = layout.show(actions.service, actions.samples)
                choose = layout.choose()
                run = layout.segment()
                with gr.Column(visible=False, elem_id="result") as found:
                    take = layout.take()
            with gr.Column(scale=6, min_width=600, elem_id="bench"):
                checks = layout.checks()
                with gr.Column(visible=False, elem_id="looked-at") as looked_at:
                    look = layout.look()

        shown = shown_of(show)
        inputs = [*shown, run.queries, run.truths, choose.strategy, choose.grid, choose.confidence, *choose.options]
        views, bench = Views(actions), Bench(actions)
        sight = [looked_at, found, look.scan, look.structures, look.volumes]
        before_a_run(actions, views, bench, token, show, choose, run, checks, inputs, sight, look)
        runs(actions, views, token, show, run, checks, inputs, sight, look, take)
        looking(views, token, look, take)
        correcting(views, bench, token, sight, look, take)
        drawing(views, Workbench(actions), token, inputs, show, checks, look, take)
        restored = [token, *shown, run.queries, run.truths, *sight, run.status, take.masks, take.extras]
        arriving(page, bench, views, sample, token, restored, show, look)
        programs(Programs(actions), shown, choose, inputs)
        follow_the_result(page, [look.scan, look.window, look.overlay, look.structures])
        page.unload(actions.close)
    return ready(page, sessions)


def ready(page: gr.Blocks, sessions: Sessions) -> gr.Blocks:
    """With a queue, and with the visitors for serve()."""
    page.sessions = sessions
    return page.queue(default_concurrency_limit=1, max_size=sessions.limits.queue)


def new_actions(weights: str, device: str, limits: Limits) -> Actions:
    """With a model and visitors of their own; from now on no larger scan is read in this process.

    Raises InputError if the weights cannot be used.
    """
    sessions = Sessions(limits)
    limit_voxels(limits.voxels)
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.root)  # uploads too: private, and deleted at the end
    return Actions(Service(weights, device), sessions)


def before_a_run(actions, views, bench, token, show, choose, run, checks, inputs: list, sight: list, look) -> None:
    """The atlas, the strategy's sentence and options, the uploads and what is said of them."""

    def chosen(name: str):
        concerned = layout.options_of(name)
        options = (gr.update(visible=visible) for visible in concerned)
        return gr.Dropdown(info=layout.WHEN[name]), gr.Row(visible=any(concerned)), *options

    show.around.expand(actions.atlas, None, show.atlas, **QUIET)
    choose.strategy.input(chosen, choose.strategy, [choose.strategy, choose.row, *choose.options], **QUIET)
    files = [show.references, show.masks, show.tasks, run.queries, run.truths]
    files_changed = [event for part in files for event in (part.upload, part.delete, part.clear)]
    seen = gr.on(files_changed, bench.preview, [token, *inputs], [token, *sight], trigger_mode="always_last", **QUIET)
    seen.success(views.show, **_show(token, look))
    changed = [*files_changed, choose.strategy.input, choose.confidence.input]
    gr.on(changed, actions.look_before, inputs, checks, trigger_mode="always_last", **QUIET)


def runs(actions, views, token, show, run, checks, inputs, sight: list, look, take) -> None:
    """Segment, show again, samples, cancel: run, look at the first query."""
    outputs = [run.status, run.cancel, token, *sight, take.masks, take.extras, take.views]
    begin = QUIET | {"fn": actions.begin, "outputs": [run.status, run.cancel]}

    def then_run(event) -> None:
        ran = event.then(
            actions.run,
            [token, *inputs],
            outputs,
            show_progress_on=run.status,
            concurrency_id="model",
            concurrency_limit=AT_ONCE,
            **PRIVATE,
        )
        ran.failure(lambda: gr.Button(visible=False), None, run.cancel, **QUIET)
        ran.success(lambda: layout.AGAIN, None, look.correct.said, **QUIET)
        seen = ran.success(views.show, **_show(token, look))
        seen.then(views.gallery, token, look.gallery, **QUIET).then(views.take, [token, look.scan], take.views, **QUIET)

    fields = [*shown_of(show), run.queries, run.truths, checks]
    then_run(run.run.click(**begin))
    then_run(look.correct.again.click(**begin))
    for key, button in show.samples.items():
        then_run(button.click(**begin).then(actions.fill(key), None, fields, **QUIET))
    run.cancel.click(actions.cancel, None, run.cancel, queue=False, **QUIET)


def shown_of(show) -> list:
    return [show.references, show.masks, show.names, show.tasks, show.classes]


def _show(token, look) -> dict:
    inputs = [token, look.scan, look.flat, look.opacity, look.structures, look.compare, look.planes]
    figures = [look.window, look.overlay, look.compare, look.view3d, look.table]
    outputs = [look.viewer, *look.sliders, *figures, *look.images, *look.beside]
    return QUIET | {"inputs": inputs, "outputs": outputs}


def looking(views: Views, token, look, take) -> None:
    """Choose a scan, move through it, turn it."""
    chosen = look.scan.input(views.show, **_show(token, look))
    picked = look.gallery.select(views.pick, None, look.scan, **QUIET)
    row = look.volumes.select(views.row, token, look.scan, **QUIET)
    for event in (chosen, *(event.then(views.show, **_show(token, look)) for event in (picked, row))):
        event.then(views.take, [token, look.scan], take.views, **QUIET)
    at, drawn_at = [token, look.scan, *look.sliders], [token, look.scan, look.flat, *look.sliders]
    style = [look.window, look.overlay, look.opacity, look.structures, look.compare]
    pictures = [*look.images, *look.beside]
    moved = [*look.sliders, look.opacity]
    changed = [look.window, look.overlay, look.structures, look.compare]
    gr.on([part.input for part in (*moved, *changed)], views.move, [*drawn_at, *style], pictures, **LIVE)
    look.compare.input(lambda on: gr.Row(visible=on), look.compare, look.beside_row, **QUIET)
    look.overlay.input(views.legend, [token, look.scan, look.overlay], look.legend, **QUIET)
    surfaces = [*at, look.window, look.structures, look.planes]
    for plane, image in zip(PLANES, look.images, strict=True):
        clicked = image.select(views.click(plane), [*drawn_at, *style], [*look.sliders, *pictures], **LIVE)
        clicked.then(views.follow, surfaces, look.view3d, **QUIET)
    gr.on([part.release for part in look.sliders], views.follow, surfaces, look.view3d, **LIVE)
    gr.on([part.input for part in (look.planes, look.structures)], views.turn, surfaces, look.view3d, **LIVE)


def drawing(views: Views, workbench: Workbench, token, inputs: list, show, checks, look, take) -> None:
    """What happens in the viewer: the crosshair moves, a mask is drawn."""
    sliders = look.sliders
    loaded = look.viewer.load(workbench.loaded, None, [look.flat, look.flat_slices, look.viewer, look.remark], **QUIET)
    moved = look.viewer.select(workbench.selected, [token, look.scan, *sliders], sliders, **LIVE)
    style = [look.window, look.overlay, look.opacity, look.structures, look.compare]
    at = [token, look.scan, look.flat, *sliders, *style]
    surfaces = [token, look.scan, *sliders, look.window, look.structures, look.planes]
    pictures = [*look.images, *look.beside]
    loaded.then(views.move, at, pictures, **QUIET)
    moved.then(views.move, at, pictures, **QUIET).then(views.follow, surfaces, look.view3d, **QUIET)
    known = [show.masks, show.names, checks, look.structures, look.table, look.volumes]
    known += [look.correct.said, take.extras]
    one_by_one = QUIET | {"trigger_mode": "multiple"}
    look.viewer.input(workbench.drew, [token, *inputs], known, **one_by_one)
    look.viewer.submit(workbench.helped, [token, *inputs], [look.viewer, *known], **one_by_one)


def arriving(page, bench: Bench, views: Views, sample: bool, token, restored: list, show, look) -> None:
    """A page that is loaded again finds everything as it was; else, if wanted, it begins with a sample."""
    key, again = gr.Textbox(visible=False), gr.Checkbox(False, visible=False)
    arrived = page.load(bench.arrive, key, [again, *restored], js=KEY, **QUIET)
    arrived.success(views.show, **_show(token, look))
    if sample:
        click = f"again => again || document.querySelector('#{show.samples['hippocampus'].elem_id}').click()"
        arrived.then(None, again, None, js=click, **PRIVATE)


def correcting(views: Views, bench: Bench, token, sight: list, look, take) -> None:
    """A corrected mask; who found what."""
    correct = look.correct
    given = [token, look.scan, correct.corrected]
    outputs = [*sight, correct.corrected, correct.said, take.extras]
    put = correct.corrected.upload(bench.correct, given, outputs, **QUIET)
    put.success(views.show, **_show(token, look))
    explained = look.explain.click(bench.explain, [token, look.scan], None, show_progress_on=look.overlay, **PRIVATE)
    explained.success(views.show, **_show(token, look))


def programs(actions: Programs, shown: list, choose, inputs: list) -> None:
    """Named endpoints, on components that nobody sees."""
    with gr.Row(visible=False):
        masks, task, rows = gr.File(label="masks", file_count="multiple"), gr.File(label="task"), gr.JSON(label="rows")
        call = {name: gr.Button(name) for name in ("segment", "encode", "classes")}
    model = {"concurrency_id": "model", "concurrency_limit": AT_ONCE}
    call["segment"].click(actions.segment, inputs, [masks, rows], api_name="segment", **model)
    inputs = [*shown[:4], choose.strategy, choose.grid, shown[4]]
    call["encode"].click(actions.encode, inputs, task, api_name="encode", **model)
    call["classes"].click(actions.classes, None, rows, api_name="classes")
