"""What mkdocs does besides: every command's own --help, and files of the repository that lie outside docs/."""

import contextlib
import io
import os
import re
import sys
import textwrap
from pathlib import Path
from unittest import mock

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OUTSIDE = {  # file of the repository → page or picture of the site
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "weights/TRAINING.md": "training.md",
    "weights/iris-small/README.md": "model-card.md",
    "clients/python/README.md": "client-python.md",
    "clients/napari/README.md": "client-napari.md",
    "clients/slicer/README.md": "client-slicer.md",
    "clients/napari/screenshot.png": "napari.png",
}
HELP = "<!-- the help of every command, written here when the site is built -->"
WIDTH = 80  # characters that a page has room for


def on_files(files, config):
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    home = {target: Path(source).parent for source, target in OUTSIDE.items()}
    place = Path(page.file.src_uri).parent
    here = home.get(page.file.src_uri, Path("docs") / place)
    if page.file.src_uri in home:
        markdown = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)

    def linked(match: re.Match) -> str:
        """From where a file lies in the repository to where it is on the site."""
        target = os.path.normpath(here / match[1])
        if target.endswith(".ipynb"):  # notebooks.py makes a page of it
            target = target.removesuffix(".ipynb") + ".md"
        if target not in OUTSIDE and not target.startswith("docs/"):
            return match[0]
        return f"]({os.path.relpath(OUTSIDE.get(target, target.removeprefix('docs/')), place)})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)\)", linked, markdown).replace(HELP, helps() if HELP in markdown else "")


def helps() -> str:
    """A section a command."""
    sys.path.insert(0, str(ROOT))
    from app.cli import COMMANDS

    return "\n\n".join(f"### iris {name}\n\n```text\n{help_of(name)}\n```" for name in COMMANDS)


def help_of(*command: str) -> str:
    from app.cli import main

    said = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    lines = said.getvalue().strip().splitlines()
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, WIDTH) for line in lines)
