"""`iris info`, and which device is taken."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.cli import main
from app.service import pick_device
from iris_core import __version__

ROOT = Path(__file__).parents[3]


def test_info_says_what_is_installed(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["iris"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    model = (ROOT / "weights" / "iris-small" / "model.safetensors").read_bytes()
    assert found["weights_sha256"]["iris-small"] == hashlib.sha256(model).hexdigest()
    assert {".nii.gz", "folder of DICOM files"} <= set(found["formats"]["scans_read"])
    assert "rtstruct" in found["formats"]["masks_written"]
    assert torch.device(found["devices"]["auto"]).type in found["devices"]["auto"]
    assert main(["info"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for section in found.values() for name in section)


@pytest.mark.parametrize(("cuda", "mps", "taken"), [(0, 0, "cpu"), (0, 1, "mps"), (1, 1, "cuda"), (1, 0, "cuda")])
def test_auto_is_cuda_then_apples_gpu_then_the_cpu(monkeypatch, cuda, mps, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert pick_device("auto") == torch.device(taken)


def test_what_apples_gpu_lacks_falls_back_to_the_cpu():
    """The variable is read when torch is loaded."""
    program = "import app.cli, os, sys; assert 'torch' not in sys.modules; print(os.environ[sys.argv[1]])"
    command = [sys.executable, "-c", program, "PYTORCH_ENABLE_MPS_FALLBACK"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "1"
