"""What `iris serve` does with files and tokens; the clients' tests call a real one."""

import os
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.cli import main
from app.session import Sessions
from app.ui import server
from app.ui.guard import Files
from app.ui.server import Calls


class Kept:  # of app.ui.actions.Actions only what a visit needs
    def __init__(self) -> None:
        self.sessions = Sessions()


def wait_until(gone) -> None:
    deadline = time.monotonic() + 10
    while not gone():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_results_that_nobody_fetches_are_deleted(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "FETCH_S", 0.2)
    calls = Calls(Kept())
    mask = tmp_path / "query.nii.gz"
    mask.write_bytes(b"mask")
    (path,) = calls._set_out(str(mask))
    root = calls.actions.sessions.root
    assert path.startswith(str(root)) and not mask.exists()
    wait_until(lambda: not list(root.iterdir()))


def test_a_call_takes_its_uploads_and_old_broken_ones_along():
    calls = Calls(Kept())
    root = calls.actions.sessions.root
    (root / ("a" * 64)).mkdir()
    scan, broken_off, under_way = root / ("a" * 64) / "scan.nii", root / "tmp1", root / "tmp2"
    for path in (scan, broken_off, under_way):
        path.write_bytes(b"scan")
    os.utime(broken_off, (0, 0))
    with pytest.raises(ZeroDivisionError), calls._visit(([str(scan)], "auto", None, ["Dataset/class"])):
        assert scan.exists()
        raise ZeroDivisionError
    assert list(root.iterdir()) == [under_way]


@pytest.mark.parametrize("token", ["", "two words", "né"])
def test_a_token_that_cannot_be_sent_is_refused(token, capsys):
    assert main(["serve", "--token", token]) == 2
    assert "--token must be letters, digits" in capsys.readouterr().err


def test_a_file_deleted_while_it_is_asked_for_is_not_found(tmp_path: Path):
    whole = tmp_path / "whole.png"
    whole.write_bytes(b"picture")
    sent = {"whole": whole, "gone": tmp_path / "gone.png"}
    routes = [Route("/file={name}", lambda request: FileResponse(sent[request.path_params["name"]]))]
    with TestClient(Starlette(routes=routes, middleware=[Middleware(Files)])) as client:
        assert client.get("/file=whole").headers["cache-control"] == "no-store"
        assert client.get("/file=gone").status_code == 404
