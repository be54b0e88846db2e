"""How OpenMP's threads wait: what the runtime itself says that it read when torch loaded it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORKER = "import app.cli; from torch.multiprocessing import spawn; spawn(print)"


def said(code: str, **chosen: str) -> list[dict[str, str]]:
    """Each OpenMP runtime's settings, of a fresh process and its children."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = kept | chosen | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    blocks = run.stderr.split("OPENMP DISPLAY ENVIRONMENT BEGIN")[1:]
    return [dict(re.findall(r"(\w+) = '([^']*)'", block)) for block in blocks]


@pytest.mark.parametrize("code", ["from app.cli import main; import torch", "from app.ui import build", WORKER])
def test_threads_spin_only_briefly(code):
    settings = said(code)
    assert len(settings) > (code == WORKER)  # the child too
    assert {s["GOMP_SPINCOUNT"] for s in settings} == {"1000"}


@pytest.mark.parametrize("name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "5")])
def test_what_the_user_chose_stays(name, value):
    settings = said("from app.cli import main; import torch", **{name: value})
    assert settings and {s[name] for s in settings if name in s} == {value}
