"""The loop of the page: draw, segment, correct, show again; a page that is loaded again; a browser without WebGL2."""

import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_page import NO_WEBGL, WAIT_MS, Pencil, button, done, upload, voxel
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def start(page: Page, address: str, scan: Path, structure: str) -> Pencil:
    page.goto(address)
    upload(page, "references", scan)
    expect(page.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)
    page.get_by_label("Name of the structure").fill(structure)
    page.keyboard.press("Enter")
    return Pencil(page)


def volume_ml(page: Page) -> float:
    return float(page.locator("#structures td").nth(1).inner_text())


def becomes(page: Page, ml: float) -> None:
    """Wait until the structure's volume is so large, but for a fifth."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while abs(volume_ml(page) / ml - 1) > 0.2:
        assert time.monotonic() < deadline, (volume_ml(page), ml)
        time.sleep(0.2)


def saved(page: Page) -> None:
    expect(page.locator(".wb-status")).to_have_text("saved", timeout=WAIT_MS)


def test_draw_segment_correct_show_again(page: Page, address: str, sample: Path, tmp_path: Path):
    for name, theirs in {"one": "reference", "two": "query", "three": "query"}.items():
        shutil.copy(sample / f"{theirs}.nii.gz", tmp_path / f"{name}.nii.gz")
    scan = nibabel.load(sample / "reference_mask.nii.gz")
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    truth = np.asarray(scan.dataobj) > 0
    shown = np.flatnonzero(truth.any((0, 1)))
    drawn = shown[np.linspace(1, len(shown) - 2, 5).astype(int)]
    pencil = start(page, address, tmp_path / "one.nii.gz", "hippocampus")
    for slice_ in drawn:
        pencil.outline(truth, int(slice_))
    voxel_ml = np.prod(scan.header.get_zooms()) / 1000
    becomes(page, truth[:, :, drawn].sum() * voxel_ml)
    button(page, "Interpolate")
    becomes(page, truth[:, :, drawn[0] : drawn[-1] + 1].sum() * voxel_ml)
    expect(page.locator("#names textarea, #names input").first).to_have_value("1=hippocampus")

    # it survives the page's being loaded again, and shows the structure in two scans
    page.reload()
    expect(page.locator("#masks")).to_contain_text("one_mask", timeout=WAIT_MS)
    expect(page.locator("#viewer .wb-chips").first).to_contain_text("hippocampus", timeout=WAIT_MS)
    upload(page, "queries", tmp_path / "two.nii.gz", tmp_path / "three.nii.gz")
    page.click("#segment")
    done(page, "2 of 2")

    page.reload()
    expect(page.locator("#status")).to_contain_text("as it was", timeout=WAIT_MS)
    expect(page.locator("#downloads")).to_contain_text("two", timeout=WAIT_MS)
    page.locator("#scan input").click()
    page.get_by_role("option", name="query: two.nii.gz").click()

    # what was found in one is corrected, and shown for the other
    expect(page.locator("#scan input")).to_have_value("query: two.nii.gz")
    expect(page.locator(".wb-hint")).to_contain_text("Correct what was found", timeout=WAIT_MS)
    found = volume_ml(page)
    button(page, "Smooth")
    expect(page.locator("#corrected")).to_contain_text("this scan becomes a reference", timeout=WAIT_MS)
    expect(page.locator("#structures td").nth(1)).not_to_have_text(f"{found:.2f}", timeout=WAIT_MS)
    smoothed = volume_ml(page)
    page.click("#again")
    expect(page.locator("#status")).to_contain_text("before", timeout=WAIT_MS)
    page.locator("#scan input").click()
    page.get_by_role("option", name="query: two.nii.gz").click()
    expect(page.locator("#structures td").nth(1)).to_have_text(f"{smoothed:.2f}", timeout=WAIT_MS)


def test_a_drawing_is_its_visitors_own(page: Page, address: str, sample: Path, tmp_path: Path):
    shutil.copy(sample / "reference.nii.gz", tmp_path / "mine.nii.gz")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    start(page, address, tmp_path / "mine.nii.gz", "secret").go_to(10)
    button(page, "Pen")
    page.locator("#viewer canvas").click()
    saved(page)
    other = page.context.browser.new_page()
    other.goto(address)
    upload(other, "references", tmp_path / "mine.nii.gz")  # the same file
    expect(other.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)
    expect(other.locator("#masks")).not_to_contain_text("mine_mask")
    assert "secret" not in other.content()
    other.close()
    expect(page.locator("#masks")).to_contain_text("mine_mask")
    volumes = [url for url in asked if url.endswith(".nii.gz") and "file=" in url]
    token = re.search(r"[\w-]{43}", volumes[0])[0]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(volumes[0].replace(token, "A" * 43))
    refused.value.close()
    with urllib.request.urlopen(volumes[0]) as mine:
        assert mine.headers["cache-control"] == "no-store"


def test_without_webgl2_the_server_draws_the_slices(page: Page, address: str):
    page.add_init_script(NO_WEBGL)
    page.goto(address)
    page.click("#sample-hippocampus")
    done(page, "1 of 1")
    expect(page.get_by_text("the server draws the slices").first).to_be_visible()
    picture = page.locator("#slice-axial img")
    expect(picture).to_be_visible(timeout=WAIT_MS)
    before = page.request.get(picture.get_attribute("src"))
    page.locator("#slider-axial input[type=range]").press("ArrowLeft")
    expect(picture).not_to_have_attribute("src", before.url)
    after = page.request.get(picture.get_attribute("src"))
    assert before.body()[:4] == after.body()[:4] == b"\x89PNG" and before.body() != after.body()
    assert after.headers["cache-control"] == "no-store"

    # the wheel goes through them, a click moves the crosshair in the other two, errors are marked
    number = page.locator("#slider-axial input[type=number]")
    before = number.input_value()
    picture.hover()
    page.mouse.wheel(0, -100)
    expect(number).to_have_value(str(int(before) + 1))
    sagittal = page.locator("#slider-sagittal input[type=number]")
    before = sagittal.input_value()
    picture.click(position={"x": 120, "y": 100})
    expect(sagittal).not_to_have_value(before)
    for kind in ("outline", "errors"):
        before = picture.get_attribute("src")
        page.locator("#overlay").get_by_text(kind).click()
        expect(picture).not_to_have_attribute("src", before)
    expect(page.locator("#errors")).to_contain_text("the true mask alone")


def test_no_barriers(page: Page, address: str):
    """By axe-core: nothing serious, in light and dark, empty and with a result."""
    page.goto(address)
    expect(page.locator("#sample-hippocampus")).to_be_visible(timeout=WAIT_MS)
    expect(page).not_to_have_title("")
    for filled in (False, True):
        if filled:
            page.click("#sample-hippocampus")
            done(page, "1 of 1")
            expect(page.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)
        for dark in (False, True):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            page.wait_for_timeout(300)
            found = Axe().run(page).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            told = [f"{each['id']}: {[node['html'][:150] for node in each['nodes']][:4]}" for each in serious]
            assert not told, told
    assert voxel(page)
