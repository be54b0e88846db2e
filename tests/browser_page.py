"""What tests in a browser share: a real server with the released weights, uploads, waiting, drawing with the mouse."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect
from skimage.measure import find_contours

ROOT = Path(__file__).parents[1]
WAIT_MS = 60_000
NO_WEBGL = (  # a script that hides WebGL2 from all but Plotly
    "const get = HTMLCanvasElement.prototype.getContext;"
    "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
    " return kind === 'webgl2' && !this.closest('#view3d') ? null : get.call(this, kind, ...more); }"
)


def serve(command: list[str], temporary: Path, **environment: str):
    """Start a server on a free port; yields its address; afterwards it must have deleted its temporary folder,
    and have failed only where a program named a file that it had not uploaded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [part.replace("PORT", str(port)) for part in command]
    environment = {name: value.replace("PORT", str(port)) for name, value in environment.items()}
    log = temporary / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(temporary)} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + WAIT_MS / 1000
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.2)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    assert not list(temporary.glob("iris-*-page-*"))
    said = log.read_text("utf-8")
    assert said.count("Traceback") == said.count("gradio.exceptions.InvalidPathError: Cannot move"), said


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as page:
            return page.status == 200
    except urllib.error.HTTPError as refusal:
        return refusal.code == 401  # it wants a token
    except (urllib.error.URLError, TimeoutError):
        return False


def upload(page: Page, part: str, *paths: Path) -> None:
    page.set_input_files(f"#{part} input[type=file]", paths)
    for path in paths:
        expect(page.locator(f"#{part}").get_by_text(path.name.split(".")[0]).first).to_be_visible(timeout=WAIT_MS)


def done(page: Page, queries: str) -> None:
    """Wait for a result; queries: '1 of 1'."""
    expect(page.locator("#status")).to_contain_text(f"{queries} queries segmented", timeout=WAIT_MS)
    expect(page.locator("#view3d canvas").first).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#views")).to_contain_text("html", timeout=WAIT_MS)  # the last event of a run


def voxel(page: Page) -> list[int]:
    """Where the viewer's crosshair is."""
    return [int(i) for i in re.search(r"voxel (\d+), (\d+), (\d+)", page.locator(".wb-reading").inner_text()).groups()]


def button(page: Page, name: str) -> None:
    page.locator("#viewer").get_by_role("button", name=name, exact=True).click()


class Pencil:
    """Draws axial slices in the page's viewer with the mouse, as a person does."""

    def __init__(self, page: Page) -> None:
        """Find out by clicks where on the screen voxels lie: their index grows evenly along x and y."""
        self.page = page
        page.get_by_label("Layout").select_option("axial")
        button(page, "Look")
        canvas = page.locator("#viewer canvas")
        canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(500)
        box = canvas.bounding_box()
        middle, reach = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), 0.3 * box["height"]
        self.lines = []
        for axis in range(2):
            places = middle[axis] + np.linspace(-reach, reach, 41)
            found = []
            for place in places:
                page.mouse.click(*(place if a == axis else middle[a] for a in range(2)))
                found.append(voxel(page)[axis])
            self.lines.append(np.polyfit(found, places, 1))

    def go_to(self, slice_: int) -> None:
        self.page.locator("#viewer canvas").focus()
        while (at := voxel(self.page)[2]) != slice_:
            self.page.keyboard.press("PageUp" if at < slice_ else "PageDown")

    def outline(self, mask: np.ndarray, slice_: int) -> None:
        """Draw and fill the outlines of one slice of a mask (x, y, z), RAS+ order."""
        self.go_to(slice_)
        button(self.page, "Fill")
        for contour in find_contours(np.pad(mask[:, :, slice_], 1).astype(float), 0.9):
            places = np.stack([np.polyval(line, contour[:, a] - 1) for a, line in enumerate(self.lines)], 1)
            self.page.mouse.move(*places[0])
            self.page.mouse.down()
            for place in places[1:]:
                self.page.mouse.move(*place)
            self.page.mouse.up()
