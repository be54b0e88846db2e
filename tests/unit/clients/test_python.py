"""The client against a real server: the same as Service, and nothing stays there."""

import os
import re
import shutil
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import browser_page
import httpx
import nibabel
import numpy as np
import pytest
from conftest import write_nifti
from gradio_client import Client as GradioClient
from gradio_client import handle_file

import iris_client
from app.service import Service
from iris_client import Client
from iris_core.case import Case, LabelClass
from nnunet_adapters import images

CLIENT = Path(iris_client.__file__).parents[1]
NAMES = {1: "Anterior", 2: "Posterior & <rest>, 3=no other"}


@pytest.fixture(scope="module")
def client(served):
    with Client(served.address, served.token) as client:
        yield client


@pytest.fixture(scope="module")
def service() -> Service:
    return Service("iris-small", "cpu")


def outline(service, read, sample) -> np.ndarray:
    """A script for either."""
    reference = read.read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz", NAMES)
    task = service.encode(reference)
    return service.segment(task, read.read_scan(sample / "query.nii.gz"))


def test_one_script_gives_the_same_masks_with_service_and_with_the_client(client, service, sample, served):
    local = outline(service, images, sample)
    assert set(np.unique(local)) == {0, 1, 2}
    assert np.array_equal(local, outline(client, images, sample))  # Iris' own cases
    assert np.array_equal(local, outline(client, iris_client, sample))  # the client's
    assert served.left() == []


def test_several_references_of_different_structures(client, service, sample):
    both = images.read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz", NAMES)
    one, other = (replace(both, classes=(c,)) for c in both.classes)  # what the other shows is background
    query = images.read_scan(sample / "query.nii.gz")
    results = [s.segment(s.encode(one, other), query) for s in (service, client)]
    assert set(np.unique(results[0])) == {0, 1, 2} and np.array_equal(*results)
    renamed = replace(other, classes=(LabelClass(one.classes[0].name, 2, (2,)),))
    for either in (service, client):
        with pytest.raises(ValueError, match="class 'Anterior' must have one label value, references give 1 and 2"):
            either.encode(one, renamed)


def test_known_classes_need_no_reference(client, service, sample, served):
    assert client.classes() == service.classes()
    known = ["Dataset004_Hippocampus/Posterior", "Dataset004_Hippocampus/Anterior"]
    query = images.read_scan(sample / "query.nii.gz")
    results = [one.segment(one.encode(classes=known), query) for one in (service, client)]
    assert results[0].any() and np.array_equal(*results)
    assert served.left() == []


def test_calls_at_once_do_not_take_each_others_files(client, sample, served):
    query = iris_client.read_scan(sample / "query.nii.gz")
    task = client.encode(iris_client.read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz"))
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(client.segment, [task] * 5, [query] * 5))
    assert found[0].any() and all(np.array_equal(found[0], other) for other in found)
    assert served.left() == []


def some_case(**changes) -> iris_client.Case:
    labels = np.zeros((12, 12, 12), int)
    labels[4:8, 4:8, 4:8] = 1
    image = np.random.default_rng(0).normal(size=labels.shape)
    case = iris_client.Case(image, np.eye(4), labels, iris_client.plain_classes(labels), "mine")
    return replace(case, **changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"labels": None}, "mine: a reference must have labels"),
        ({"labels": np.zeros((12, 12, 12), int)}, "mine: the mask must mark at least one voxel"),
        ({"classes": ()}, "mine: must have classes, got none"),
        ({"labels": np.ones((3, 3, 3), int)}, r"mine.*\(3, 3, 3\)"),
        ({"image": np.full((12, 12, 12), np.nan)}, "mine: the image holds NaN"),
        ({"image": np.zeros((12, 12))}, "mine"),
        ({"affine": np.zeros((4, 4))}, "mine: the affine must be"),
        ({"affine": np.eye(3)}, "mine: the affine must be"),
        ({"labels": np.full((12, 12, 12), 0.5)}, "mine: labels must be whole numbers"),
        ({"classes": (LabelClass("both", 1, (1, 2)),)}, "mine: a class must be one label value"),
        ({"classes": (iris_client.LabelClass("far", 2**40),)}, "mine: label values must fit into 32 bits"),
    ],
)
def test_bad_references_are_refused_with_a_message_and_leave_nothing(client, served, changes, said):
    with pytest.raises(iris_client.InputError, match=said):
        client.encode(some_case(**changes))
    assert served.left() == []


def test_bad_calls_are_refused_with_a_message_and_leave_nothing(client, served, sample):
    query = images.read_scan(sample / "query.nii.gz")
    with pytest.raises(iris_client.InputError, match=r"^the task: "):
        client.segment(iris_client.Task(b"no task"), query)
    with pytest.raises(iris_client.InputError, match="got 0 references"):
        client.encode()
    with pytest.raises(iris_client.InputError, match="no such class"):
        client.encode(classes=["no such class"])
    with pytest.raises(iris_client.InputError, match="ignore"):
        client.encode(Case(query.image, query.affine, query.image > 0, (LabelClass("a", 1, (1,)),), ignore=2))
    assert served.left() == []


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"names": "1"}, "must be value=name"),
        ({"strategy": "magic"}, "strategy must be auto or one of"),
        ({"grid": "coarse"}, "grid must be one of"),
        ({"references": None}, "got 0 scans and 1 masks"),
        ({"queries": None}, "Add at least one query"),
        ({"masks": "notes.txt"}, "notes.txt"),
    ],
)
def test_a_bad_call_of_another_program_leaves_nothing(served, sample, tmp_path, bad, said):
    (tmp_path / "notes.txt").write_text("no scan")
    files = {"references": sample / "reference.nii.gz", "masks": sample / "reference_mask.nii.gz"}
    files["queries"] = sample / "query.nii.gz"
    if "masks" in bad:
        files["masks"], bad = tmp_path / bad["masks"], {}
    with httpx.Client(base_url=served.address, headers={"Authorization": "Bearer s3cret"}, timeout=60) as http:
        asked = dict(bad)
        for part in files.keys() - bad.keys():
            upload = {"files": (files[part].name, files[part].read_bytes())}
            (path,) = http.post("gradio_api/upload", files=upload).json()
            asked[part] = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        event = http.post("gradio_api/call/v2/segment", json=asked).json()["event_id"]
        assert said in http.get(f"gradio_api/call/segment/{event}").text
    assert served.left() == []


def test_files_that_were_not_uploaded_are_out_of_reach(served, sample):
    with httpx.Client(base_url=served.address, headers={"Authorization": "Bearer s3cret"}, timeout=60) as http:
        for path in ("/etc/passwd", str(sample / "query.nii.gz")):
            file = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
            asked = {"references": file, "masks": file, "queries": file}
            event = http.post("gradio_api/call/v2/segment", json=asked).json()["event_id"]
            assert "event: error" in http.get(f"gradio_api/call/segment/{event}").text
        assert http.get("gradio_api/file=/etc/passwd").status_code == 403
        assert http.get(f"gradio_api/file={sample / 'query.nii.gz'}").status_code == 200  # a sample: it stays
    assert (sample / "query.nii.gz").is_file() and served.left() == []


def test_who_has_no_token_reaches_nothing(served, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.float32))
    for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer é"}):
        with httpx.Client(base_url=served.address, headers={k: v.encode() for k, v in headers.items()}) as http:
            for place in ("", "config", "gradio_api/info", "gradio_api/file=/etc/passwd", "gradio_api/heartbeat/a"):
                assert http.get(place).status_code == 401
            with scan.open("rb") as file:
                assert http.post("gradio_api/upload", files={"files": file}).status_code == 401
            for place in ("call/v2/classes", "call/classes", "queue/join", "run/classes"):
                refused = http.post(f"gradio_api/{place}", json={})
                assert refused.status_code == 401 and "Bearer TOKEN" in refused.json()["detail"]
    for token in (None, "wrong"):
        with Client(served.address, token) as client, pytest.raises(iris_client.ServerError, match="token"):
            client.classes()
    assert served.left() == []


def test_gradios_own_client_can_send_the_token(served, sample, tmp_path):
    headers = {"Authorization": f"Bearer {served.token}"}
    client = GradioClient(served.address, headers=headers, download_files=tmp_path, verbose=False)
    shown = {"references": [handle_file(sample / "reference.nii.gz")]}
    shown["masks"] = [handle_file(sample / "reference_mask.nii.gz")]
    masks, rows = client.predict(**shown, queries=[handle_file(sample / "query.nii.gz")], api_name="/segment")
    assert np.asarray(nibabel.load(masks[0]).dataobj).any() and rows[0]["confidence"] > 0.5
    public = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(public) == {"/classes", "/encode", "/segment"}
    client.close()
    assert served.left() == []


def test_nobody_there():
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(iris_client.ServerError, match="is `iris serve` running"),
    ):
        client.classes()
    for address in ("127.0.0.1:7860", "ftp://there", ""):
        with pytest.raises(iris_client.InputError, match="the address must be"):
            Client(address)


def test_files_that_cannot_be_read_are_named(sample, tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes((sample / "query.nii.gz").read_bytes()[:9000])
    write_nifti(tmp_path / "complex.nii", np.ones((4, 4, 4), np.complex64))
    for name, said in (
        ("nothing.nii", "must be a NIfTI"),
        ("cut.nii.gz", "must be a NIfTI"),
        ("complex.nii", "voxels must be plain numbers, got complex64"),
    ):
        with pytest.raises(iris_client.InputError, match=rf"{name}: {said}"):
            iris_client.read_scan(tmp_path / name)
    with pytest.raises(iris_client.InputError, match=r"reference_mask\.nii\.gz: a mask must lie on its scan's grid"):
        iris_client.read_reference(sample / "query.nii.gz", sample / "reference_mask.nii.gz")


@pytest.mark.parametrize(
    ("limit", "said"), [("upload-gib", "larger than the server takes"), ("disk-gib", "busy: The server has no room")]
)
def test_uploads_have_a_limit(tmp_path, limit, said):
    command = ["-m", "app.cli", "serve", "--port", "PORT", f"--limits.{limit}", str(10000 / 2**30)]
    for address in browser_page.serve(command, tmp_path):
        with urllib.request.urlopen(address) as page:
            assert b"Iris" in page.read()
        with Client(address) as client, pytest.raises(iris_client.IrisError, match=said):
            client.encode(some_case(), some_case(image=np.random.default_rng(0).normal(size=(24, 24, 24))))
        (root,) = tmp_path.glob("iris-*-page-*")
        assert list(root.iterdir()) == []


@pytest.fixture
def scans(sample, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the scan.nii.gz, mask.nii.gz and query.nii.gz of the README."""
    for theirs, ours in (("reference", "scan"), ("reference_mask", "mask"), ("query", "query")):
        shutil.copy(sample / f"{theirs}.nii.gz", tmp_path / f"{ours}.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(readme: Path, language: str, served) -> list[str]:
    """A README's blocks of code, with the address and token of a server that runs."""
    found = re.findall(rf"```{language}\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    address = served.address.rstrip("/")
    return [block.replace("http://127.0.0.1:7860", address).replace("…", served.token) for block in found]


def test_the_readme_works_in_python(served, scans):
    (script,) = blocks(CLIENT / "README.md", "python", served)
    names = {}
    exec(script, names)
    assert names["labels"].any() and names["labels"].shape == nibabel.load(scans / "query.nii.gz").shape
    names["service"].close()


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on the PATH")
def test_the_readme_works_with_curl(served, scans):
    run = ["bash", "-euo", "pipefail", "-c", blocks(CLIENT / "README.md", "bash", served)[-1]]
    said = subprocess.run(run, env=os.environ | {"TOKEN": served.token}, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert "event: complete" in said.stdout and '"name": "liver"' in said.stdout
    assert np.asarray(nibabel.load(scans / "query_mask.nii.gz").dataobj).any()
    assert served.left() == []
