"""The page in a real browser (Chromium): how soon an upload is seen, how fast slices scroll, what is loaded; and what
drawing, correcting and showing again is worth.

    PYTHONPATH=tests python benchmarks/page.py --output runs/page [--loop] [--speed]

--speed: 512×512×200 voxels of int16, in the viewer and, WebGL2 switched off, as the server draws slices: seconds from
the upload to the picture, milliseconds a slice while scrolling, bytes, other hosts that were asked. The browser draws
in software here: with a graphics card it is faster.
--loop: a structure of one hippocampus is drawn with the mouse in three axial slices, from its true outlines, and
interpolated; three others are segmented; the worst is corrected in five slices and shown again. Dice of all before and
after, on the scans LOOP (patients that the weights never saw); pictures of every step in --output.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from browser_page import NO_WEBGL, WAIT_MS, Pencil, button, done, serve, upload, voxel
from conftest import FLAGS
from pairs import raw_folder
from playwright.sync_api import Page, expect, sync_playwright

LOOP = "hippocampus_025", "hippocampus_090", "hippocampus_166", "hippocampus_251"
STEPS = 20  # slices that are scrolled through


def speed(page: Page, address: str, scan: Path, webgl: bool) -> tuple[float, float, float, int]:
    """Seconds to the picture, ms a slice, MB loaded, requests to other hosts."""
    sizes, foreign = [], []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    page.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    if not webgl:
        page.add_init_script(NO_WEBGL)
    page.goto(address)
    page.wait_for_timeout(3000)
    started = time.monotonic()
    page.set_input_files("#references input[type=file]", scan)
    if webgl:
        expect(page.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)
    else:
        expect(page.locator("#slice-axial img")).to_be_visible(timeout=WAIT_MS)
    seen = time.monotonic() - started
    page.wait_for_timeout(3000)
    started = time.monotonic()
    for _ in range(STEPS):
        if webgl:
            before = voxel(page)[2]
            page.locator("#viewer canvas").press("PageDown")
            assert voxel(page)[2] == before - 1
            page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        else:
            before = page.locator("#slice-axial img").get_attribute("src")
            page.locator("#slider-axial input[type=range]").press("ArrowLeft")
            expect(page.locator("#slice-axial img")).not_to_have_attribute("src", before, timeout=WAIT_MS)
    return seen, (time.monotonic() - started) / STEPS * 1000, sum(sizes) / 1e6, len(foreign)


def print_speed(browser, address: str, folder: Path) -> None:
    image = np.random.default_rng(0).normal(0, 30, (512, 512, 200)).astype(np.int16)
    image[100:400, 100:400, 40:160] += 500
    scan = folder / "large.nii"
    nibabel.save(nibabel.Nifti1Image(image, np.diag([0.7, 0.7, 1.5, 1])), scan)
    print(f"{'':26s}{'picture after':>14s}{'ms a slice':>12s}{'MB loaded':>11s}{'other hosts':>13s}")
    for name, webgl in (("viewer", True), ("slices from the server", False)):
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        seen, step, size, foreign = speed(page, address, scan, webgl)
        page.close()
        print(f"{name:26s}{seen:12.1f} s{step:12.0f}{size:11.1f}{foreign:13d}", flush=True)


def dice(page: Page, name: str) -> float:
    page.locator("#scan input").click()
    page.get_by_role("option", name=f"query: {name}.nii.gz").click()
    expect(page.locator("#structures")).to_contain_text("Dice", timeout=WAIT_MS)
    page.wait_for_timeout(2000)
    heads = page.locator("#structures th").all_inner_texts()
    return float(page.locator("#structures td").nth(heads.index("Dice")).inner_text())


def print_loop(browser, address: str, folder: Path, output: Path) -> None:
    raw, truths = raw_folder() / "Dataset004_Hippocampus", {}
    for name in LOOP:
        shutil.copy(raw / "imagesTr" / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz")
        mask = nibabel.load(raw / "labelsTr" / f"{name}.nii.gz")
        assert nibabel.aff2axcodes(mask.affine) == ("R", "A", "S")
        truths[name] = np.asarray(mask.dataobj) > 0
        nibabel.save(nibabel.Nifti1Image(truths[name].astype(np.uint8), mask.affine), folder / f"{name}_mask.nii.gz")
    reference, *queries = LOOP
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    pictures = iter(range(1, 100))

    def picture() -> None:
        page.wait_for_timeout(1500)
        page.screenshot(path=output / f"{next(pictures)}.png")

    def draw(name: str, n: int) -> None:
        shown = np.flatnonzero(truths[name].any((0, 1)))
        pencil = Pencil(page)
        for slice_ in shown[np.linspace(1, len(shown) - 2, n).astype(int)]:
            pencil.outline(truths[name], int(slice_))
        expect(page.locator(".wb-status")).to_have_text("saved", timeout=WAIT_MS)
        picture()
        button(page, "Interpolate")
        page.wait_for_timeout(3000)
        picture()

    page.goto(address)
    upload(page, "references", folder / f"{reference}.nii.gz")
    expect(page.locator(".wb-reading")).to_contain_text("voxel", timeout=WAIT_MS)
    picture()
    page.get_by_label("Name of the structure").fill("hippocampus")
    page.keyboard.press("Enter")
    draw(reference, 3)
    upload(page, "queries", *(folder / f"{name}.nii.gz" for name in queries))
    upload(page, "truths", *(folder / f"{name}_mask.nii.gz" for name in queries))
    page.click("#segment")
    done(page, f"{len(queries)} of {len(queries)}")
    picture()
    before = {name: dice(page, name) for name in queries}
    worst = min(before, key=before.get)
    dice(page, worst)
    button(page, "Clear")
    draw(worst, 5)
    page.click("#again")
    expect(page.locator("#status")).to_contain_text("before", timeout=WAIT_MS)
    page.wait_for_timeout(3000)
    picture()
    print(f"{'Dice':20s}{'before':>8s}{'after':>8s}")
    for name in queries:
        print(f"{name:20s}{before[name]:8.2f}{dice(page, name):8.2f}" + "  corrected" * (name == worst), flush=True)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
        for address in serve(["-m", "app.cli", "app", "--port", "PORT", "--no-open-browser"], folder):
            if arguments.loop:
                print_loop(browser, address, folder, arguments.output)
            if arguments.speed:
                print_speed(browser, address, folder)


if __name__ == "__main__":
    main()
