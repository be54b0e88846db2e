"""Every path through the page: what can be shown, chosen, looked at, corrected, taken away; by people and programs."""

import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from browser_page import WAIT_MS, button, done, upload
from dicom_files import write_series
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def check(page: Page, part: str) -> None:
    page.locator(f"#{part} input").first.check()


def choose(page: Page, part: str, text: str) -> None:
    page.locator(f"#{part} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def download(page: Page, part: str, name: str, folder: Path) -> Path:
    with page.expect_download() as event:
        page.locator(f"#{part} a[download='{name}']").first.click()
    event.value.save_as(folder / name)
    return folder / name


def test_look_measure_correct_and_take_away(page: Page, address: str, sample: Path, tmp_path: Path):
    page.goto(address)
    expect(page.locator("#status")).to_contain_text("Nothing segmented yet")
    page.click("#sample-hippocampus")
    done(page, "1 of 1")
    for column in ("confidence", "Dice", "within 2 mm", "distance mm"):
        expect(page.locator("#structures")).to_contain_text(column)

    # the scans stay in sight beside the end of what is chosen
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#bench")).to_be_in_viewport(ratio=0.9)

    # errors, the reference beside it, planes in 3D
    button(page, "errors")
    expect(page.locator("#viewer")).to_contain_text("the true mask alone", timeout=WAIT_MS)
    check(page, "compare")
    expect(page.locator("#beside-coronal img")).to_be_visible()
    traces = "document.querySelector('#view3d .js-plotly-plot').data.filter(t => t.type == 'surface').length"
    assert page.evaluate(traces) == 0
    check(page, "planes")
    page.wait_for_function(f"() => {traces} == 3")

    # who found what
    page.click("#explain")
    expect(page.locator("#viewer")).to_contain_text("registration alone", timeout=WAIT_MS)

    # everything to take away
    with zipfile.ZipFile(download(page, "extras", "everything.zip", tmp_path)) as everything:
        inside = {"query.nii.gz", "statistics.csv", "statistics.json", "iris.task.safetensors"}
        assert set(everything.namelist()) == inside
        assert len(json.loads(everything.read("statistics.json"))) == 2
    assert download(page, "views", "query.html", tmp_path).stat().st_size > 10**6
    assert download(page, "views", "query.png", tmp_path).read_bytes()[:4] == b"\x89PNG"

    # a corrected mask makes the query a reference for the next one
    shutil.copy(sample / "query.nii.gz", tmp_path / "next.nii.gz")
    shutil.copy(sample / "query_mask.nii.gz", tmp_path / "drawn anew.nii.gz")
    page.locator("#elsewhere").get_by_text("another program").click()
    page.set_input_files("#fixed input[type=file]", tmp_path / "drawn anew.nii.gz")
    expect(page.locator("#corrected")).to_contain_text("this scan becomes a reference", timeout=WAIT_MS)
    expect(page.locator("#structures")).to_contain_text("1.00")  # Dice against the true mask, which it is
    page.locator("#truths button[aria-label='Clear']").first.click()
    upload(page, "queries", tmp_path / "next.nii.gz")
    page.click("#again")
    done(page, "2 of 2")
    expect(page.locator("#status")).to_contain_text("Mean confidence")


def test_several_references_several_queries_and_retrieval(page: Page, address: str, sample: Path, tmp_path: Path):
    names = {"reference": "a", "reference_mask": "a_mask", "query": "b", "query_mask": "b_mask"}
    for theirs, ours in names.items():
        shutil.copy(sample / f"{theirs}.nii.gz", tmp_path / f"{ours}.nii.gz")
    shutil.copy(sample / "query.nii.gz", tmp_path / "first.nii.gz")
    shutil.copy(sample / "reference.nii.gz", tmp_path / "second.nii.gz")
    page.goto(address)
    upload(page, "references", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    upload(page, "masks", tmp_path / "b_mask.nii.gz", tmp_path / "a_mask.nii.gz")
    upload(page, "queries", tmp_path / "first.nii.gz", tmp_path / "second.nii.gz")
    expect(page.locator("#checks")).to_contain_text("a.nii.gz with a_mask.nii.gz", timeout=WAIT_MS)
    expect(page.locator("#checks")).to_contain_text("2 queries: about", timeout=WAIT_MS)
    choose(page, "strategy", "retrieval")
    expect(page.locator("#strategy")).to_contain_text("each structure comes from")
    expect(page.get_by_text("References for each structure")).to_be_visible()
    page.click("#segment")
    done(page, "2 of 2")
    expect(page.locator("#structures")).to_contain_text("was shown by")
    page.locator("#scans button.thumbnail-item, #scans .thumbnail-item").nth(3).click()
    expect(page.locator("#scan input")).to_have_value("query: second.nii.gz")
    page.get_by_text("All scans: a table to sort").click()
    page.locator("#volumes").get_by_role("gridcell", name="query: first.nii.gz").first.click()
    expect(page.locator("#scan input")).to_have_value("query: first.nii.gz")


def test_a_dicom_series_gets_a_mask_and_a_dicom_seg(page: Page, address: str, sample: Path, tmp_path: Path):
    query = nibabel.load(sample / "query.nii.gz")
    assert nibabel.aff2axcodes(query.affine) == ("R", "A", "S")
    volume = np.asarray(query.dataobj)[::-1, ::-1]  # DICOM's x and y point to the left and to the back
    spacing_mm = tuple(map(float, query.header.get_zooms()))
    series = write_series(tmp_path / "series", volume=volume.round().astype(np.int16), spacing_mm=spacing_mm)
    shutil.make_archive(str(tmp_path / "mr"), "zip", series)
    page.goto(address)
    upload(page, "references", sample / "reference.nii.gz")
    upload(page, "masks", sample / "reference_mask.nii.gz")
    upload(page, "queries", tmp_path / "mr.zip")
    page.click("#segment")
    done(page, "1 of 1")
    found = nibabel.load(download(page, "downloads", "mr.nii.gz", tmp_path))
    assert found.shape == query.shape
    seg = pydicom.dcmread(download(page, "extras", "mr.seg.dcm", tmp_path))
    assert seg.Modality == "SEG" and len(seg.SegmentSequence) == 2
    truth = np.asarray(nibabel.load(sample / "query_mask.nii.gz").dataobj)[::-1, ::-1]
    mask = nibabel.as_closest_canonical(found).get_fdata()[::-1, ::-1]
    assert 2 * ((mask > 0) & (truth > 0)).sum() / ((mask > 0).sum() + (truth > 0).sum()) > 0.8


def test_a_known_structure_needs_no_reference(page: Page, address: str, sample: Path):
    page.goto(address)
    upload(page, "queries", sample / "query.nii.gz")
    page.get_by_role("tab", name="Known structures").click()
    page.locator("#classes input").fill("hippocampus/ant")
    page.get_by_role("option", name="Dataset004_Hippocampus/Anterior").click()
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Atlas").click()
    expect(page.locator("#atlas .js-plotly-plot")).to_contain_text("Dataset004", timeout=WAIT_MS)
    page.click("#segment")
    done(page, "1 of 1")
    expect(page.locator("#structures")).to_contain_text("Dataset004_Hippocampus/Anterior")
    expect(page.locator("#compare")).to_be_hidden()


def test_a_run_can_be_cancelled(page: Page, address: str):
    page.goto(address)
    page.wait_for_selector("#segment")
    choose(page, "strategy", "tuning")
    steps = page.locator("#steps input[type=number]")
    steps.fill("200")
    steps.press("Enter")
    page.click("#sample-heart")
    expect(page.locator("#status")).to_contain_text("step", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Cancelled", timeout=WAIT_MS)
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    expect(page.locator("#result")).to_be_hidden()


def test_programs_encode_segment_and_list_what_is_known(page: Page, address: str, sample: Path, tmp_path: Path):
    client = Client(address, download_files=str(tmp_path), verbose=False)
    assert "Dataset004_Hippocampus/Anterior" in client.predict(api_name="/classes")
    shown = {
        "references": [handle_file(sample / "reference.nii.gz")],
        "masks": [handle_file(sample / "reference_mask.nii.gz")],
        "names": "1=Anterior 2=Posterior",
    }
    task = client.predict(**shown, api_name="/encode")
    queries = [handle_file(sample / "query.nii.gz")]
    masks, rows = client.predict(**shown, queries=queries, api_name="/segment")
    again, _ = client.predict(tasks=[handle_file(task)], queries=queries, api_name="/segment")
    first, second = (np.asarray(nibabel.load(files[0]).dataobj) for files in (masks, again))
    assert first.any() and np.array_equal(first, second)
    assert [row["name"] for row in rows] == ["Anterior", "Posterior"] and rows[0]["confidence"] > 0.5
    with pytest.raises(AppError, match="Add at least one query"):
        client.predict(**shown, api_name="/segment")
    public = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(public) == {"/classes", "/encode", "/segment"}
    taken = [parameter["parameter_name"] for parameter in public["/segment"]["parameters"]]
    assert taken[:3] == ["references", "masks", "names"] and taken[-4:] == ["top_k", "seed", "steps", "rate"]

    # the task file works on the page too
    page.goto(address)
    page.get_by_role("tab", name="Saved task").click()
    upload(page, "tasks", Path(task))
    upload(page, "queries", sample / "query.nii.gz")
    page.click("#segment")
    done(page, "1 of 1")
    expect(page.locator("#structures")).to_contain_text("Posterior")
    client.close()


def call_segment(address: str, path: str) -> str:
    """What the server answers to a program that claims to have uploaded this."""
    file = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    data = [file, file, "", [], [], file, [], "auto", "auto", True, 3, 0, 40, 0.01]
    call = f"{address}gradio_api/call/segment"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(call, json.dumps({"data": data}).encode(), headers)
    with urllib.request.urlopen(request) as begun:
        event = json.load(begun)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=WAIT_MS / 1000) as stream:
        return stream.read().decode()


def test_visitors_reach_nothing_of_each_other(page: Page, address: str, sample: Path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.click("#sample-hippocampus")
    done(page, "1 of 1")
    own = [url for url in asked if url.endswith("-image.nii.gz")][-1]
    with urllib.request.urlopen(own) as picture:
        assert picture.status == 200
    path = Path(urllib.parse.unquote(own.split("/file=")[1]))
    token = path.parent.name
    guesses = [
        path.parent,
        path.parent.parent,
        path.with_name("1-image.npy").as_posix().replace(token, "A" * len(token)),
    ]
    guesses += [path.parent.parent / ".." / "etc" / "passwd", "/etc/passwd", "app/cli.py"]
    for guess in guesses:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(own.split("/file=")[0] + "/file=" + urllib.parse.quote(str(guess)))
        with refused.value:
            assert refused.value.code in (403, 404)
    swapped = str(path.parent / "masks" / "query.nii.gz").replace(token, "A" * len(token))
    for guess in ("/etc/passwd", str(sample / "query.nii.gz"), swapped):
        assert "event: error" in call_segment(address, guess)
    other = page.context.browser.new_page()
    other.goto(address)
    expect(other.locator("#status")).to_contain_text("Nothing segmented yet", timeout=WAIT_MS)
    assert token not in other.content()
    other.close()
    assert re.fullmatch(r"[\w-]{43}", token)
