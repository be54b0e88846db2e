"""The page's server as others reach it: what is refused, and with which words; what every answer says."""

import getpass
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from browser_page import serve

from app.cli import main
from app.ui.guard import MAX_BODY

ROOT = Path(__file__).parents[3]
BYTES = 2**-30  # GiB


class Server(NamedTuple):
    http: httpx.Client
    root: Path  # of what visitors leave


@pytest.fixture(scope="module")
def server(tiny_weights, tmp_path_factory):
    """An upload of 3000 bytes, 10000 bytes of all, two events that wait."""
    limits = {"upload-gib": 3000 * BYTES, "disk-gib": 10000 * BYTES, "queue": 2}
    options = [word for name, value in limits.items() for word in (f"--limits.{name}", str(value))]
    command = ["-m", "app.cli", "app", "--port", "PORT", "--no-open-browser", "--weights", str(tiny_weights), *options]
    temporary = tmp_path_factory.mktemp("limited")
    for address in serve(command, temporary):
        (root,) = temporary.glob("iris-*-page-*")
        with httpx.Client(base_url=address, timeout=60) as http:
            yield Server(http, root)


def test_every_answer_says_what_a_browser_may_do_with_it(server):
    upload = server.http.post("/gradio_api/upload", files={"files": ("page.html", b"<script>alert(1)</script>")})
    (path,) = upload.json()
    answers = {at: server.http.get(at) for at in ("/", "/config", "/iris-viewer/workbench.js", "/nothing")}
    answers |= {"upload": upload, "file": server.http.get(f"/gradio_api/file={path}")}
    for at, answer in answers.items():
        said = answer.headers
        assert said["x-content-type-options"] == "nosniff" and said["cross-origin-opener-policy"] == "same-origin", at
        assert "frame-ancestors 'none'" in said["content-security-policy"], at
        assert ("sandbox" in said["content-security-policy"]) == (at != "/"), at
    scripts = answers["/"].headers["content-security-policy"].split("script-src")[1].split(";")[0]
    assert scripts.count("'sha256-") >= 4 and "unsafe-inline" not in scripts
    file = answers["file"]
    assert file.headers["cache-control"] == "no-store" and "attachment" in file.headers["content-disposition"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "process_recording"),
        ("POST", "component_server"),
        ("GET", "deep_link?session_hash=a"),
        ("GET", "proxy=https://someone-demo.hf.space/file=a"),
        ("GET", "file=https://example.org/scan.nii.gz"),
        ("GET", "file/http://example.org/scan.nii.gz"),
    ],
)
def test_what_the_page_does_not_need_is_closed(server, method, path):
    answer = server.http.request(method, f"/gradio_api/{path}")
    assert (answer.status_code, answer.text) == (404, "Not found")


def test_pages_of_other_sites_are_refused_programs_and_links_are_not(server):
    files = {"files": ("scan.nii", b"scan")}
    for site, expected in (("cross-site", 403), ("same-origin", 200), ("none", 200), (None, 200)):
        headers = {"Sec-Fetch-Site": site} if site else {}
        assert server.http.post("/gradio_api/upload", files=files, headers=headers).status_code == expected
    assert server.http.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link


def test_an_upload_has_a_size(server):
    assert server.http.post("/gradio_api/upload", files={"files": ("a.nii", bytes(2900))}).status_code == 200
    answer = server.http.post("/gradio_api/upload", files={"files": ("a.nii", bytes(3100))})
    assert answer.status_code == 413 and "exceeded maximum allowed size of 3000" in answer.text


def test_uploads_beyond_the_room_on_disk_are_refused_before_they_are_taken(server):
    before = sorted(server.root.rglob("*"))
    files = [("files", (f"{number}.nii", bytes(2500))) for number in range(5)]
    answer = server.http.post("/gradio_api/upload", files=files)
    assert answer.status_code == 507 and "no room for this" in answer.text and "try again" in answer.text
    assert sorted(server.root.rglob("*")) == before


def test_other_requests_are_short_and_say_their_length(server):
    many = server.http.post("/gradio_api/queue/join", content=b" " * (MAX_BODY + 1))
    assert many.status_code == 413 and "bytes, got" in many.text
    unsaid = server.http.post("/gradio_api/upload", content=iter([b"scan"]))
    assert unsaid.status_code == 411 and "Content-Length" in unsaid.text


def call(server, api: str, *data) -> str:
    event = server.http.post(f"/gradio_api/call/{api}", json={"data": data}).json()["event_id"]
    return server.http.get(f"/gradio_api/call/{api}/{event}").text


def test_addresses_are_not_fetched(server):
    file = {"path": "https://example.org/scan.nii.gz", "meta": {"_type": "gradio.FileData"}}
    options = "", [], [], [file], [], "auto", "auto", False, 3, 0, 40, 0.01
    assert "addresses are not fetched" in call(server, "segment", [file], [file], *options)


def test_a_full_queue_is_said_at_once(server):
    """Calls that nobody waits for fill it: each of them is answered, and the one too many is refused."""
    codes = set()
    for _ in range(40):
        data = {"data": [[], [], "", [], [], [], [], "auto", "auto", False, 3, 0, 40, 0.01]}
        answer = server.http.post("/gradio_api/call/segment", json=data)
        codes.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.status_code == 503 and "Queue is full" in answer.text
            break
    assert codes == {200, 503}


def test_the_server_does_not_say_where_it_is(server):
    """Not in the page's text, nor where programs ask, nor where a file is asked for that is none of theirs."""
    secret = str(ROOT), str(server.root), f"{Path.home()}/", f"/{getpass.getuser()}/"
    for at in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/startup-events"):
        answer = server.http.get(at)
        assert answer.status_code == 200 and not [where for where in secret if where in answer.text], at
    for file in (ROOT / "app" / "cli.py", "app/cli.py", "../../etc/passwd"):
        answer = server.http.get(f"/gradio_api/file={file}")
        assert answer.status_code in (403, 404)
        assert not [where for where in secret if where in answer.text.replace(str(file), "")], answer.text
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    options = "", [], [], [file], [], "auto", "auto", False, 3, 0, 40, 0.01
    said = call(server, "segment", [file], [file], *options)
    assert "event: error" in said and not [where for where in secret if where in said], said


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", "*", "https://a.org; script-src *"])
def test_a_site_that_may_frame_is_named_as_an_origin(origin, tiny_weights, capsys):
    assert main(["app", "--weights", str(tiny_weights), "--no-open-browser", "--embed", origin]) == 2
    assert "--embed must be addresses like https://huggingface.co" in capsys.readouterr().err
