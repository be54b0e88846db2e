"""The folder of a Hugging Face Space: this program, a set of weights, the samples, what to install."""

import shutil
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from iris_core.case import InputError
from iris_core.files import require_new, write_atomically
from weights import find_weights
from weights.hub import CARD, HASHES, NEEDED, OPTIONAL, parse_weights

ROOT = Path(__file__).parents[1]
PROJECT = "iris-segmentation"
APP = '''"""`python app.py` opens the page; a Hugging Face Space starts here."""

from app.ui import SPACES, build, serve

demo = build({weights!r}, sample=True)

if __name__ == "__main__":
    serve(demo, embed=[SPACES])
'''
README = """---
title: Iris
emoji: 👁
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: apache-2.0
tags: [medical-imaging, segmentation, in-context-learning]
{models}---

# Iris: show one scan, segment the rest

Show one scan with its mask, and the same structures are segmented in your other scans: *Show and Segment*
(CVPR 2025, [arXiv 2503.19359](https://arxiv.org/abs/2503.19359)).

**Not a medical device.** For research and teaching. What you upload goes to the machine that runs this Space, and is
deleted when you close the page: no scan that shows who a patient is belongs here.

The code is Apache-2.0; the weights' licence is in [their model card]({card}), the samples' in `app/samples/README.md`.
"""


def build_space(folder: Path, weights: str) -> None:
    """Write the Space's folder. Raises InputError unless it is new or empty, and where the weights cannot be used."""
    require_new(folder)
    found = find_weights(weights)
    write_atomically(folder, lambda temporary: _build(temporary, found, weights))


def _build(folder: Path, found: Path, weights: str) -> None:
    place = parse_weights(weights) if not Path(weights).exists() else None
    name = (place.repo_id.split("/")[1] if place else found.resolve().name).lstrip(".")
    for package in ("app", "iris_core", "nnunet_adapters"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    target = folder / "weights" / name
    target.mkdir(parents=True)
    for source in sorted((ROOT / "weights").glob("*.py")):
        shutil.copyfile(source, folder / "weights" / source.name)
    for file in (*NEEDED, *OPTIONAL, CARD, HASHES):  # a run's folder holds much more
        if (found / file).is_file():
            shutil.copyfile(found / file, target / file)
    requirements, licence = _installed() if not (ROOT / "pyproject.toml").is_file() else _in_the_source()
    card = f"weights/{name}/{CARD}" if (target / CARD).is_file() else "weights"
    models = f"models: [{place.repo_id}]\n" if place else ""
    texts = {
        "app.py": APP.format(weights=name),
        "README.md": README.format(gradio=version("gradio"), models=models, card=card),
        "requirements.txt": requirements,
        "LICENSE": licence,
    }
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")


def _in_the_source() -> tuple[str, str]:
    return (ROOT / "requirements.txt").read_text("utf-8"), (ROOT / "LICENSE").read_text("utf-8")


def _installed() -> tuple[str, str]:
    """Requirements and licence of the installed package."""
    try:
        package = distribution(PROJECT)
    except PackageNotFoundError as error:
        raise InputError(f"{ROOT}: must be the source or an installed {PROJECT}, found neither") from error
    needed = [line for line in package.requires or () if "extra ==" not in line]
    return "\n".join(needed) + "\n", package.read_text("licenses/LICENSE") or ""
