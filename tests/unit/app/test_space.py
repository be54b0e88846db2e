"""The folder of a Space: what is in it, and that `python app.py` serves the page from it alone."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from gradio_client import Client, handle_file
from packaging.requirements import Requirement

from app.cli import main

ROOT = Path(__file__).parents[3]
STARTED_S = 240


@pytest.fixture
def space(tmp_path, tiny_weights) -> Path:
    folder = tmp_path / "space"
    assert main(["space", "--output", str(folder), "--weights", str(tiny_weights)]) == 0
    return folder


def serve(python: str | Path, folder: Path) -> tuple[str, subprocess.Popen]:
    """Start the Space's page as Spaces do: `python app.py` in its folder, the address from the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "SYSTEM": "spaces",
        "SPACE_ID": "someone/iris",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    log = open(folder.parent / "log", "w")  # noqa: SIM115 (the process holds it)
    process = subprocess.Popen([python, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    log.close()
    return f"http://127.0.0.1:{port}", process


def wait_for(address: str, process: subprocess.Popen, log: Path) -> str:
    """The page's text, as soon as it is served."""
    for _ in range(STARTED_S):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                return page.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    raise AssertionError(log.read_text())


def check_served(python: str | Path, folder: Path, sample: Path | None = None) -> None:
    """The page and its endpoints are there; with the released weights and a sample, they segment it."""
    address, process = serve(python, folder)
    try:
        page = wait_for(address, process, folder.parent / "log")
        assert "Iris" in page
        assert "Not a medical device" in page
        client = Client(address, verbose=False, httpx_kwargs={"timeout": STARTED_S})
        listed = client.view_api(print_info=False, return_format="dict")
        assert set(listed["named_endpoints"]) == {"/classes", "/encode", "/segment"}  # the page's events are its own
        with urllib.request.urlopen(f"{address}/config", timeout=30) as config:
            assert b"sample-hippocampus" in config.read()
        if sample:
            files = {
                name: [handle_file(sample / f"{name}.nii.gz")] for name in ("reference", "reference_mask", "query")
            }
            shown = {"references": files["reference"], "masks": files["reference_mask"], "queries": files["query"]}
            truth = [handle_file(sample / "query_mask.nii.gz")]
            masks, rows = client.predict(**shown, truths=truth, api_name="/segment")
            assert len(masks) == 1
            assert all(row["dice"] > 0.7 for row in rows), rows
    finally:
        process.terminate()
        process.wait(30)


def requirements(folder: Path) -> set[str]:
    lines = (folder / "requirements.txt").read_text("utf-8").splitlines()
    return {str(Requirement(line)) for line in lines if line and not line.startswith("#")}


def test_the_folder_holds_what_a_space_needs(space, tiny_weights):
    front = yaml.safe_load((space / "README.md").read_text("utf-8").split("---\n")[1])
    assert front["sdk"] == "gradio"
    assert front["python_version"] == "3.12"
    assert (space / front["app_file"]).is_file()
    assert requirements(space) == requirements(ROOT)  # an installed package writes them in another order
    assert (space / "LICENSE").is_file()
    assert (space / "app" / "samples" / "heart" / "query.nii.gz").is_file()
    kept = {p.name for p in (space / "weights").iterdir()}
    assert kept == {"__init__.py", "hub.py", "card.py", tiny_weights.name}
    assert not [p for p in space.rglob("*") if p.name == "__pycache__" or p.suffix in (".pt", ".bin")]
    assert front["sdk_version"] == version("gradio")


def test_the_page_is_served_from_the_folder(space):
    check_served(sys.executable, space)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path, tiny_weights, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["space", "--output", str(tmp_path), "--weights", str(tiny_weights)]) == 2
    assert "must be a new or an empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert main(["space", "--weights", str(tiny_weights)]) == 2


@pytest.mark.slow
def test_the_space_starts_in_a_fresh_environment(tmp_path, sample):
    """As Spaces do: an environment with the folder's requirements and `spaces`, nothing else; the released weights."""
    folder = tmp_path / "space"
    assert main(["space", "--output", str(folder)]) == 0
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-r", folder / "requirements.txt", "spaces"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(install, check=True, env=environment)
    check_served(python, folder, sample)
