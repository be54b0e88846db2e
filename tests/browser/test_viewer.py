"""The viewer in a real browser and a small Gradio page: what is drawn on the screen arrives voxel for voxel."""

import io
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import nibabel
import numpy as np
import pytest
from browser_page import ROOT, serve
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

VIEWER = ROOT / "app" / "ui" / "viewer"
LOAD = (
    'import(new URL("iris-viewer/workbench.js", document.baseURI))'
    ".then(m => m.mount({element, props, trigger, upload, watch}))"
)
WAIT = 30
SHAPE = (40, 36, 30)
LEFT, RIGHT = (28, 10, 20), (18, 10, 20)  # two bright voxels, as they lie on the screen
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.2, 0, 7], [0, 0, 1.5, -3], [0, 0, 0, 1]])

pytestmark = pytest.mark.browser


def run(folder: Path, port: int) -> None:
    """A page with the viewer and nothing else: it shows value.json, and writes what it is told to events.txt."""

    def listener(name: str):
        def listen(event: gr.EventData):
            if event._data is not None:  # Gradio's own "load" has none
                with (folder / "events.txt").open("a") as events:
                    events.write(json.dumps([name, event._data]) + "\n")

        return listen

    with gr.Blocks() as page:
        viewer = gr.HTML(
            html_template='<div class="workbench"></div>',
            js_on_load=LOAD,
            elem_id="workbench",
            apply_default_css=False,
        )
        value = folder / "value.json"
        gr.Button("next", elem_id="next").click(lambda: json.loads(value.read_text()), outputs=viewer)
        for name in ("load", "select", "input", "submit"):
            getattr(viewer, name)(listener(name))
    static = Mount("/iris-viewer", app=StaticFiles(directory=VIEWER))
    page.launch(server_port=port, quiet=True, allowed_paths=[str(folder)], app_kwargs={"routes": [static]})


class Server:
    """That page from the test's side."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address, self.value = folder, address, None
        self.forget()

    def forget(self) -> None:
        (self.folder / "events.txt").write_text("")

    def write(self, name: str, array: np.ndarray) -> str:
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), self.folder / name)
        return f"gradio_api/file={self.folder / name}"

    def set(self, page: Page, value: dict | None) -> None:
        self.value = value
        (self.folder / "value.json").write_text(json.dumps(value))
        page.click("#next")

    def show(self, page: Page, **value) -> None:
        scan = {"id": "s1", "title": "scan", "structures": [], "mask": None, "mask_revision": 0, "layers": []}
        windows = {"all": [0, 1000], "dark": [0, 100]}
        self.set(page, scan | {"windows": windows, "draw": None, "at": [5, 30, 20]} | value)

    def told(self, name: str, count: int = 1) -> dict:
        """The data of the last event of a kind; waits for as many."""
        deadline = time.monotonic() + WAIT
        while True:
            events = [json.loads(line) for line in (self.folder / "events.txt").read_text().splitlines()]
            found = [data for event, data in events if event == name]
            if len(found) >= count:
                return found[-1]
            assert time.monotonic() < deadline, events
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    for address in serve([__file__, str(folder), "PORT"], tmp_path_factory.mktemp("server"), PYTHONPATH=paths):
        yield Server(folder, address)


@pytest.fixture
def scan(server) -> dict:
    """A dark image with two bright voxels."""
    image = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
    image[LEFT] = image[RIGHT] = 1000
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 5:15, 18:23] = 1
    return {"image": server.write("image.nii.gz", image), "mask": server.write("mask.nii.gz", mask)}


@pytest.fixture
def viewer(page: Page, server, scan) -> Locator:
    """The viewer's canvas with a scan to draw on; fails where the page has asked another host or complained."""
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(urlsplit(request.url)))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "workbench" in line.text.lower() else None)
    server.forget()
    page.goto(server.address)
    assert server.told("load") == {"webgl2": True}
    expect(page.get_by_text("Add a scan, and it is shown here")).to_be_visible()
    server.show(page, draw={"hint": "Draw the liver"}, structures=[{"name": "liver", "colour": "#e69f00"}], **scan)
    expect(page.locator(".wb-reading")).to_contain_text("voxel 5, 30, 20", timeout=WAIT * 1000)
    yield page.locator("#workbench canvas")
    assert not complaints
    hosts = {url.netloc for url in asked if url.scheme.startswith("http")}
    assert hosts == {urlsplit(server.address).netloc}


def screen(canvas: Locator) -> np.ndarray:
    canvas.page.wait_for_timeout(300)  # two frames of a software renderer
    return np.array(Image.open(io.BytesIO(canvas.screenshot())).convert("L"))


def bright(canvas: Locator) -> list[tuple[float, float]]:
    """Where the two bright voxels are, in the page's pixels; of a single one two halves."""
    picture = screen(canvas)
    picture[[0, -1]] = picture[:, [0, -1]] = 0  # where the canvas ends within a pixel the page shines through
    rows, columns = np.nonzero(picture > 240)
    middle = (columns.min() + columns.max() + 1) // 2
    box = canvas.bounding_box()
    sides = columns < middle, columns >= middle
    return [(box["x"] + columns[side].mean() + 0.5, box["y"] + rows[side].mean() + 0.5) for side in sides if side.any()]


def drawn(path: str) -> np.ndarray:
    mask = nibabel.load(path)
    assert mask.shape == SHAPE and mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    return np.asarray(mask.dataobj)


def drag(page: Page, start, end) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def test_a_stroke_arrives_where_it_was_drawn(page: Page, server, viewer):
    left, right = bright(viewer)
    page.get_by_role("button", name="Pen", exact=True).click()
    page.get_by_role("button", name="Pen of 1 voxel").click()
    drag(page, left, right)
    told = server.told("input")
    assert told["id"] == "s1" and [each["name"] for each in told["structures"]] == ["liver"]
    mask = drawn(told["path"])
    new = {tuple(voxel) for voxel in np.argwhere(mask == 1) if voxel[0] > 10}
    assert new == {(i, 10, 20) for i in range(RIGHT[0], LEFT[0] + 1)}
    assert (mask[4:9, 5:15, 18:23] == 1).all()  # what was there before
    expect(page.locator(".wb-status")).to_contain_text("saved")

    # undone, done again, and with a second structure
    viewer.focus()
    page.keyboard.press("Control+z")
    assert not drawn(server.told("input", 2)["path"])[10:].any()
    page.keyboard.press("Control+Shift+Z")
    assert drawn(server.told("input", 3)["path"])[10:].sum() == 11
    page.get_by_role("button", name="+ Structure").click()
    page.get_by_label("Name of the structure").fill("spleen")
    page.keyboard.press("Enter")
    assert server.told("input", 4)["structures"][1] == {"name": "spleen", "colour": "#56b4e9"}
    page.mouse.click(*left)
    mask = drawn(server.told("input", 5)["path"])
    assert mask[LEFT] == 2 and mask[RIGHT] == 1 and (mask == 2).sum() == 1

    # the server's work is one step, and what it answers is shown without loading the scan again
    page.get_by_role("button", name="Smooth").click()
    told = server.told("submit")
    assert (told["action"], told["structure"], told["axis"]) == ("smooth", 1, None)
    answer = np.zeros(SHAPE, np.uint8)
    answer[30, 5, 20] = 2
    images = []
    page.on("request", lambda request: images.append(request.url) if "image.nii" in request.url else None)
    server.show(page, **(server.value | {"mask": server.write("answer.nii.gz", answer), "mask_revision": 1}))
    expect(page.get_by_role("button", name="Smooth")).to_be_enabled()
    page.get_by_role("button", name="Undo").click()
    assert (drawn(server.told("input", 6)["path"]) == mask).all()
    assert not images


def test_all_planes(page: Page, server, viewer):
    liver = {"structures": [{"name": "liver", "colour": "#e69f00"}], "draw": {"hint": "Draw the liver"}}
    image = server.value["image"]
    server.show(page, id="s2", image=image, at=[5, 10, 25], **liver)
    page.get_by_label("Layout").select_option("coronal")
    expect(page.locator(".wb-reading")).to_contain_text("voxel 5, 10, 25")
    left, right = bright(viewer)
    page.get_by_role("button", name="Pen", exact=True).click()
    page.get_by_role("button", name="Pen of 1 voxel").click()
    drag(page, right, left)
    told = server.told("input")
    assert told["id"] == "s2"
    assert {tuple(voxel) for voxel in np.argwhere(drawn(told["path"]))} == {(i, 10, 20) for i in range(18, 29)}

    server.show(page, id="s3", image=image, at=[28, 30, 5], **liver)
    page.get_by_label("Layout").select_option("sagittal")
    expect(page.locator(".wb-reading")).to_contain_text("voxel 28, 30, 5")
    page.mouse.click(*np.mean(bright(viewer), axis=0))
    mask = drawn(server.told("input", 2)["path"])
    assert mask[LEFT] == 1 and mask.sum() == 1


def test_grow_and_fill(page: Page, server, viewer):
    left, right = bright(viewer)
    viewer.focus()
    page.keyboard.press("g")
    page.mouse.click(*left)
    assert {tuple(v) for v in np.argwhere(drawn(server.told("input")["path"])) if v[0] > 10} == {LEFT}
    page.keyboard.press("f")
    step = (right[0] - left[0]) / (LEFT[0] - RIGHT[0])
    page.mouse.move(*left)
    page.mouse.down()
    page.mouse.move(left[0] + 4 * step, left[1], steps=4)
    page.mouse.move(left[0] + 4 * step, left[1] + 4 * 1.2 * step, steps=4)
    page.mouse.move(left[0], left[1] + 4 * 1.2 * step, steps=4)
    page.mouse.up()
    mask = drawn(server.told("input", 2)["path"])
    assert mask[24:29, 6:11, 20].all() and mask[10:].sum() == 25


def test_looking_around(page: Page, server, viewer):
    reading = page.locator(".wb-reading")
    expect(reading).to_contain_text("-15.0, 43.0, 27.0 mm")
    left, _ = bright(viewer)
    page.mouse.click(*left)
    expect(reading).to_contain_text("voxel 28, 10, 20")
    expect(reading).to_contain_text("intensity 1000 · no structure")
    assert server.told("select") == {"id": "s1", "at": list(LEFT)}
    page.mouse.wheel(0, 120)
    expect(reading).to_contain_text("voxel 28, 10, 19")
    viewer.focus()
    for key in ("PageUp", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    expect(reading).to_contain_text("voxel 29, 11, 20")

    # a value with the same id leaves the view as it is: a layer is added
    layer = np.zeros(SHAPE, np.uint8)
    layer[27:30, 9:12, 20] = 1
    errors = {"name": "errors", "url": server.write("errors.nii.gz", layer), "on": False}
    errors["legend"] = [{"name": "both agree", "colour": "#009e73"}]
    element = viewer.element_handle()
    server.show(page, **(server.value | {"layers": [errors], "draw": None}))
    page.get_by_role("button", name="errors").click()
    expect(page.get_by_text("both agree")).to_be_visible()
    expect(reading).to_contain_text("voxel 29, 11, 20")
    expect(page.get_by_role("toolbar", name="Drawing")).to_be_hidden()
    assert element.evaluate("canvas => canvas.isConnected")

    # windowing by the right button, by preset, zoom and reset
    page.get_by_label("Window", exact=True).select_option("dark")
    expect(page.get_by_label("to", exact=True)).to_have_value("100")
    before = screen(viewer).mean()
    page.mouse.move(*left)
    page.mouse.down(button="right")
    page.mouse.move(left[0] + 150, left[1])
    page.mouse.up(button="right")
    assert screen(viewer).mean() < before - 10
    page.get_by_role("button", name="Reset view").click()
    expect(page.get_by_label("to", exact=True)).to_have_value("1000")

    # nothing to show, and another scan
    server.set(page, None)
    expect(page.get_by_text("Add a scan, and it is shown here")).to_be_visible()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
