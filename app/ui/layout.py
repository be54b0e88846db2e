"""The page's sections from top to bottom. Each function draws one and returns its components by name."""

from types import SimpleNamespace

import gradio as gr
from gradio.data_classes import FileData, ListFiles

from app.service import Service
from app.ui.actions import CANCEL
from app.ui.looks import DARK
from app.ui.tables import COLUMNS
from app.ui.workbench import LOAD
from app.viewers.slices import PLANES
from iris_core.strategies import STRATEGIES, Options

SCANS = [".nii", ".gz", ".nrrd", ".mha", ".dcm", ".ima", ".zip"]
MASKS = [".nii", ".gz", ".nrrd", ".mha", ".dcm"]

TITLE = """# Iris
Show one scan with its mask, and the same structures are segmented in your other scans."""
NOTICE = """**Not a medical device.** For research only: masks can be wrong and must not guide diagnosis or treatment.
Scans stay on the machine that runs this program and are deleted when you close the page."""
EMPTY = "<p>Nothing segmented yet. Show a reference with its mask above and add a query, or try a sample.</p>"
SEEN = "<p>Scans are shown here as soon as you add them.</p>"
AGAIN = """<p>What you correct above, or put in its place, stays as it is and becomes one more reference: Show it again
reads it alone anew, and segments the other queries, the least certain first.</p>"""
LEGEND = """Click into a slice to move the crosshair; turn the wheel over it, or use its slider with the arrow keys, to
go through the slices. Axial and coronal slices have the patient's right at the left; letters follow the header."""

ATLAS = """Structures that the model finds alike lie near each other. Point at one: it names its nearest neighbours in
other datasets."""

WHEN = {
    "auto": "Takes what you showed: one reference as it is, several as their mean, known classes from the weights.",
    "one_shot": "Right for one good reference and queries that look like it. The quickest.",
    "ensemble": "Right for two to ten references of one kind of scan: their mean is steadier than any one of them.",
    "memory_bank": "Right without a reference, for a structure that the weights have learnt: tick it in step 1.",
    "retrieval": "Right for many references that differ: each structure comes from those where it looks most alike.",
    "image_retrieval": "Right for many references that differ as whole images (scanner, age): the nearest serve all.",
    "tuning": "Right for many queries and a little patience: the task is fitted to the references first.",
}


def paths_of(files: gr.File, uploads: ListFiles | FileData | None) -> list[str] | str | None:
    """What gr.File makes of uploads; but it lets an empty file lie beside each, and refuses endings before an event
    knows of them."""
    if uploads is None:
        return None
    paths = [upload.path for upload in ([uploads] if isinstance(uploads, FileData) else uploads)]
    return paths if files.file_count == "multiple" else paths[0]


gr.File.preprocess = paths_of  # beside a class of our own gradio would write a .pyi


def head() -> None:
    with gr.Row(elem_id="head"):
        gr.Markdown(TITLE)
        gr.Button("Light / dark", size="sm", elem_id="mode").click(None, js=DARK, api_visibility="private")
    gr.Markdown(NOTICE, elem_id="notice")


def show(service: Service, samples: dict) -> SimpleNamespace:
    """What shows the task: references with masks, saved tasks, known classes."""
    _step("1 · Show what to segment")
    with gr.Tabs(elem_id="shown"):
        with gr.Tab("Scans, masks"):
            references = _files("Reference scans", SCANS, "references")
            masks = _files("Their masks, one for each", MASKS, "masks")
            names = gr.Textbox(
                label="Names of the structures (optional)",
                info="What the values in the masks mean.",
                placeholder="1=liver 2=spleen",
                elem_id="names",
            )
        with gr.Tab("Saved task"):
            tasks = _files("Task files: what you took away from a former run", [".safetensors"], "tasks")
        with gr.Tab("Known structures"):
            known = service.classes()
            classes = gr.Dropdown(
                list(known),
                value=[],
                multiselect=True,
                label="Structures that need no reference",
                info=f"{len(known)} were learnt in training, for scans like those of their datasets. Type to search."
                if known
                else "These weights have none: show a reference instead.",
                elem_id="classes",
            )
            with gr.Accordion("Atlas: what is near what", open=False, visible=bool(known), elem_id="atlas") as around:
                atlas = gr.Plot(show_label=False)
                gr.Markdown(ATLAS)
    with gr.Row(elem_id="samples"):
        buttons = {
            key: gr.Button(f"Try a sample: {sample.title.lower()}", size="sm", elem_id=f"sample-{key}")
            for key, sample in samples.items()
        }
    return SimpleNamespace(
        references=references,
        masks=masks,
        names=names,
        tasks=tasks,
        classes=classes,
        around=around,
        atlas=atlas,
        samples=buttons,
    )


def choose() -> SimpleNamespace:
    """The strategy and what belongs to it."""
    _step("2 · Choose how")
    default = Options()
    with gr.Row():
        strategy = gr.Dropdown(
            ["auto", *STRATEGIES], value="auto", label="Strategy", info=WHEN["auto"], scale=2, elem_id="strategy"
        )
        grid = gr.Radio(
            ["auto", "paper"],
            value="auto",
            label="Working grid",
            info="auto suits the voxel size to the structures; paper is 1.5 mm.",
            elem_id="grid",
        )
    confidence = gr.Checkbox(
        True,
        label="Estimate the confidence",
        info="How far to trust each mask; takes up to twice as long.",
        elem_id="confidence",
    )
    with gr.Row(visible=False) as row:
        top_k = gr.Slider(1, 10, default.top_k, step=1, label="References for each structure", visible=False)
        seed = gr.Number(default.seed, precision=0, label="Seed of the first reference", visible=False)
        steps = gr.Slider(0, 200, default.steps, step=5, label="Steps of tuning", visible=False, elem_id="steps")
        rate = gr.Number(default.rate, label="Learning rate", minimum=1e-5, maximum=1, step=0.001, visible=False)
    return SimpleNamespace(
        strategy=strategy, grid=grid, confidence=confidence, row=row, options=(top_k, seed, steps, rate)
    )


def options_of(strategy: str) -> list[bool]:
    """Which of top_k, seed, steps, rate concern a strategy."""
    retrieval, tuning = "retrieval" in strategy, strategy == "tuning"
    return [retrieval, strategy == "retrieval", tuning, tuning]


def segment() -> SimpleNamespace:
    """Queries, what there is to say before the run, the run."""
    _step("3 · Segment")
    queries = _files("Queries: scans to segment", SCANS, "queries")
    truths = _files("True masks of queries, to measure against (optional)", MASKS, "truths")
    with gr.Row():
        run = gr.Button("Segment (Ctrl+Enter)", variant="primary", scale=4, elem_id="segment")
        cancel = gr.Button(CANCEL, variant="stop", visible=False, elem_id="cancel")
    status = gr.HTML(EMPTY, elem_id="status", elem_classes="said")
    return SimpleNamespace(queries=queries, truths=truths, run=run, cancel=cancel, status=status)


def checks() -> gr.HTML:
    """What is to be said of the uploads, beside their pictures."""
    _step("Look")
    return gr.HTML(SEEN, elem_id="checks", elem_classes="said")


def look() -> SimpleNamespace:
    """Slices, 3D, the reference beside the query, figures, a gallery."""
    gallery = gr.Gallery(
        label="Scans: choose one to look at",
        columns=6,
        height=230,  # one row; more scroll inside
        object_fit="contain",
        allow_preview=False,
        buttons=[],
        interactive=False,
        format="png",
        visible=False,
        elem_id="scans",
    )
    scan = gr.Dropdown([], label="Scan", elem_id="scan")
    viewer = gr.HTML(
        html_template='<div class="workbench"></div>',
        js_on_load=LOAD,
        apply_default_css=False,
        padding=False,
        elem_id="viewer",
    )
    flat, remark = gr.Checkbox(False, visible=False), gr.HTML(visible=False, elem_classes="said")
    with gr.Column(visible=False) as flat_slices:
        *controls, images, sliders, legend = _flat_slices()
    window, overlay, opacity = controls
    correct = _correct()
    structures = gr.CheckboxGroup([], label="Structures in 3D", elem_id="visible")
    with gr.Row():
        compare = gr.Checkbox(False, label="Reference beside it", elem_id="compare")
        planes = gr.Checkbox(False, label="Slices in 3D", elem_id="planes")
        explain = gr.Button("Who found what?", size="sm", elem_id="explain")
    beside = []
    with gr.Row(visible=False, elem_id="beside") as beside_row:
        for plane in PLANES:
            with gr.Column(min_width=220):
                beside.append(_picture(f"Reference, {plane}", f"beside-{plane}"))
    with gr.Row():
        with gr.Column(min_width=400):
            view3d = gr.Plot(label="3D: drag to turn, click a name to hide it", elem_id="view3d")
        with gr.Column(min_width=300):
            table = gr.HTML(label="This scan", show_label=True, container=True, padding=True, elem_id="structures")
    with gr.Accordion("All scans: a table to sort; a click into a row shows its scan", open=False):
        volumes = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=["str", "str", "number", "number", "str"],
            interactive=False,
            max_height=420,
            elem_id="volumes",
        )
    return SimpleNamespace(**locals())


def _flat_slices() -> tuple:
    """Slices that the server draws, where there is no WebGL2: window, overlay, opacity, pictures, sliders, legend."""
    with gr.Row():
        window = gr.Dropdown([], label="Window", scale=2, min_width=180, elem_id="window")
        overlay = gr.Radio(["fill", "outline"], value="fill", label="Masks", scale=3, min_width=300, elem_id="overlay")
        opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", scale=2, min_width=180, elem_id="opacity")
    images, sliders = [], []
    with gr.Row():
        for plane in PLANES:
            with gr.Column(min_width=220):
                images.append(_picture(f"{plane.capitalize()}", f"slice-{plane}"))
                sliders.append(
                    gr.Slider(1, 2, step=1, label=f"{plane.capitalize()} slice", buttons=[], elem_id=f"slider-{plane}")
                )
    legend = gr.HTML(visible=False, elem_id="errors", elem_classes="said")
    gr.Markdown(LEGEND, elem_id="legend")
    return window, overlay, opacity, images, sliders, legend


def _correct() -> SimpleNamespace:
    """A corrected mask makes a query a reference."""
    with gr.Row(elem_id="correct"):
        again = gr.Button("Show it again", variant="primary", scale=1, elem_id="again")
        with gr.Column(scale=3):
            said = gr.HTML(AGAIN, elem_id="corrected", elem_classes="said")
    with gr.Accordion("Corrected it in another program?", open=False, elem_id="elsewhere"):
        corrected = gr.File(label="Corrected mask of the scan above", file_types=MASKS, height=120, elem_id="fixed")
    return SimpleNamespace(corrected=corrected, again=again, said=said)


def take() -> SimpleNamespace:
    """Downloads."""
    _step("4 · Take away")
    with gr.Column():
        masks = _downloads("Masks, each on its query's own grid", "downloads")
        extras = _downloads("Everything as a zip, statistics, the task", "extras")
        views = _downloads("Picture and 3D view of the scan above", "views")
    return SimpleNamespace(masks=masks, extras=extras, views=views)


def _step(title: str) -> None:
    gr.Markdown(f"## {title}", elem_classes="step")


def _files(label: str, types: list[str], name: str) -> gr.File:
    return gr.File(label=label, file_types=types, file_count="multiple", height=150, elem_id=name)


def _downloads(label: str, name: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", interactive=False, min_width=300, elem_id=name)


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        alt_text=f"{label} slice with its masks",
        elem_id=name,
        elem_classes="picture",
    )
