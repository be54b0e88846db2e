"""What tests in a browser share: a real server with the released weights, uploads, waiting."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[1]
WAIT_MS = 60_000


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
    assert not list(temporary.glob("iris-page-*"))
    said = log.read_text("utf-8")
    assert said.count("Traceback") == said.count("gradio.exceptions.InvalidPathError: Cannot move"), said


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as page:
            return page.status == 200
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
