"""The page in a real browser: its results are those of the terminal, it says what is wrong, and it forgets."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser_page import ROOT, WAIT_MS, done, serve, upload, voxel
from playwright.sync_api import Page, expect

CAMERA = "document.querySelector('#view3d .js-plotly-plot').layout.scene.camera.eye"

pytestmark = pytest.mark.browser


@pytest.fixture
def files(sample, tmp_path) -> Path:
    """The sample under names of its own, and two masks that do not fit."""
    for name, theirs in {"known": "reference", "known-mask": "reference_mask", "patient 7": "query"}.items():
        shutil.copy(sample / f"{theirs}.nii.gz", tmp_path / f"{name}.nii.gz")
    shutil.copy(sample / "query_mask.nii.gz", tmp_path / "other-grid.nii.gz")
    mask = nibabel.load(sample / "reference_mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), tmp_path / "empty.nii.gz")
    return tmp_path


def terminal(folder: Path, mask: str) -> subprocess.CompletedProcess:
    """`iris segment` on the same files."""
    arguments = f"segment --reference known.nii.gz --mask {mask} --output results --query".split()
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "patient 7.nii.gz"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def test_a_mask_from_the_page_is_that_of_the_terminal(page: Page, address: str, files: Path):
    volumes = []
    page.on("response", lambda answer: volumes.append(answer) if "/file=" in answer.url else None)
    page.goto(address)
    upload(page, "references", files / "known.nii.gz")
    expect(page.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)  # seen before anything is run
    expect(page.locator("#viewer canvas")).to_be_in_viewport()
    upload(page, "masks", files / "known-mask.nii.gz")
    upload(page, "queries", files / "patient 7.nii.gz")
    page.click("#segment")
    done(page, "1 of 1")  # what is drawn afterwards would take the mouse's button away
    expect(page.locator("#structures")).to_contain_text("confidence")

    # the wheel goes through the slices, a click moves the crosshair, and the browser is told not to store anything
    canvas = page.locator("#viewer canvas")
    before = voxel(page)
    canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.wheel(0, -100)
    expect(page.locator(".wb-reading")).not_to_contain_text(f"voxel {', '.join(map(str, before))}")
    before = voxel(page)
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    expect(page.locator(".wb-reading")).not_to_contain_text(f"voxel {', '.join(map(str, before))}")
    assert sum(a != b for a, b in zip(before, voxel(page), strict=True)) == 2
    assert volumes and all(answer.headers["cache-control"] == "no-store" for answer in volumes)

    # the surfaces turn with the mouse
    eye = page.evaluate(CAMERA)
    page.locator("#view3d").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = page.locator("#view3d").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 40, steps=5)
    page.mouse.up()
    page.wait_for_function(f"before => Math.abs({CAMERA}.x - before) > 0.05", arg=eye["x"])

    with page.expect_download() as download:
        page.locator("#downloads a").first.click()
    assert download.value.suggested_filename == "patient 7.nii.gz"
    download.value.save_as(files / "from the page.nii.gz")
    assert terminal(files, "known-mask.nii.gz").returncode == 0
    ours, theirs = (nibabel.load(files / name) for name in ("from the page.nii.gz", "results/patient 7.nii.gz"))
    assert np.array_equal(ours.dataobj, theirs.dataobj) and np.any(ours.dataobj)
    assert np.array_equal(ours.affine, theirs.affine) and ours.header == theirs.header


@pytest.mark.parametrize("mask", ["empty.nii.gz", "other-grid.nii.gz"])
def test_a_bad_mask_gets_the_message_of_the_terminal(page: Page, address: str, files: Path, mask: str):
    page.goto(address)
    page.click("#segment")
    expect(page.locator("#status")).to_contain_text("Add at least one query first", timeout=WAIT_MS)
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.get_by_test_id("toast-body")).to_have_count(1)
    upload(page, "references", files / "known.nii.gz")
    upload(page, "masks", files / mask)
    upload(page, "queries", files / "patient 7.nii.gz")
    page.click("#segment")
    failed = terminal(files, mask)
    assert failed.returncode == 2
    message = failed.stderr.splitlines()[-1].removeprefix("iris: error: ")
    assert message.startswith(mask)
    expect(page.get_by_test_id("toast-body").get_by_text(message)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#checks")).to_contain_text(message, timeout=WAIT_MS)  # it says so before the run too
    expect(page.locator("#result")).to_be_hidden()


def test_app_py_opens_with_a_sample_keeps_it_at_home_and_forgets_it(page: Page, tmp_path: Path):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    environment = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "PORT"}
    for address in serve(["app.py"], tmp_path, **environment):
        page.goto(address)
        expect(page.locator("#view3d canvas").first).to_be_visible(timeout=WAIT_MS)
        expect(page.locator("#structures")).to_contain_text("Posterior")
        page.click("#sample-heart")
        expect(page.locator("#structures")).to_contain_text("left ventricle cavity", timeout=WAIT_MS)
        assert page.evaluate("localStorage.length") == 0
        assert page.evaluate("Object.keys(sessionStorage)") == ["iris"]  # the tab's own key, nothing of the scans
        assert list(tmp_path.rglob("*.npy")) and list(tmp_path.rglob("*.nii.gz"))
        page.close()
        deadline = time.monotonic() + WAIT_MS / 1000
        while left := [path for path in tmp_path.rglob("*.*") if path.suffix in (".npy", ".gz", ".png")]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        foreign = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
        assert len(requests) > 10 and not foreign
