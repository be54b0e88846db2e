"""What results were made with, kept beside them: every command that wrote into their folder, and where it ran. No
command of its own."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from iris_core import __version__
from weights import find_weights
from weights.hub import sha256

ROOT = Path(__file__).parents[1]
PACKAGES = "torch", "numpy", "SimpleITK", "nibabel", "antspyx", "picsl-greedy", "convexadam"
VARIABLES = "OMP_NUM_THREADS", "nnUNet_raw"


def record(output: Path, weights: str | None = None) -> None:
    """Add this command to command.txt, and to its environment in environment.json: a list, one entry for each that
    differs. output: a folder of results, or a file in one; neither need be there yet."""
    folder = output.parent if output.suffix else output
    folder.mkdir(parents=True, exist_ok=True)
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    script = os.path.relpath(Path(sys.argv[0]).absolute(), ROOT)
    command = shlex.join([*variables, "python", script, *sys.argv[1:]])
    said = f"{command}  # {time.strftime('%Y-%m-%d %H:%M:%S %z')}, load {os.getloadavg()[0]:.1f}"
    with open(folder / "command.txt", "a", encoding="utf-8") as file:
        file.write(said + "\n")
    kept, here = folder / "environment.json", environment(weights)
    known = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    same = [one for one in known if {**one, "commands": None} == {**here, "commands": None}]
    if not same:
        known.append(same := {**here, "commands": []})
    else:
        (same,) = same
    same["commands"].append(said)
    kept.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def keep(path: Path, text: str) -> None:
    """Print a text, and keep it."""
    path.write_text(text + "\n", "utf-8")
    print(text)


def clock() -> float:
    """Seconds: with one thread those of the CPU, so that what else runs on the machine counts less; else the wall's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def environment(weights: str | None = None) -> dict:
    """Versions, processor, threads, the commit (with + where files differ from it), and the SHA-256 of weights."""
    found = {
        "iris": __version__,
        "commit": _git("rev-parse", "HEAD") + "+" * bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name()
    if weights:
        found["weights"] = {"name": weights, "sha256": sha256(find_weights(weights) / "model.safetensors")}
    return found


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "no repository"


def _processor() -> str:
    """The model's name; on Linux with family and number, without which "AMD EPYC" says little."""
    known = Path("/proc/cpuinfo")
    if not known.exists():
        return platform.processor()
    found = dict(re.findall(r"^([a-z ]+?)\s*: (.*)$", known.read_text("utf-8"), re.MULTILINE))
    return f"{found.get('model name')}, family {found.get('cpu family')}, model {found.get('model')}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
