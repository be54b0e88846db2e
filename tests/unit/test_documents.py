"""The documents: every command that they name exists and takes these options, every snippet of Python runs, the site is
built without a warning and asks nothing of the network when it is read."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nibabel
import pytest
import tyro

from app.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "SECURITY.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs" / "tutorials").glob("*.ipynb")),
    "weights/iris-small/README.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "clients").glob("*/README.md")),
]
RUN = ["README.md", "docs/python.md", "docs/contributing.md"]  # clients/python/README.md: test_python.py
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def text(document: str) -> str:
    """Of a notebook what is no code: the code is run by test_tutorials.py."""
    said = (ROOT / document).read_text("utf-8")
    if not document.endswith(".ipynb"):
        return said
    return "\n".join("".join(c["source"]) + "\n" for c in json.loads(said)["cells"] if c["cell_type"] == "markdown")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(document), re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[list[str]]:
    """The simple commands of every block, without comments and redirections."""
    found = []
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if set(word) <= set("&|;<>"):
                    found += [words] * bool(words)
                    words = []
                else:
                    words.append(word)
    return found


def inline(document: str) -> list[list[str]]:
    """`iris …` and `python benchmarks/….py …` in the text."""
    prose = re.sub(r"^```.*?^```$", "", text(document), flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"`((?:iris|python|PYTHONPATH=\w+ python) [^`]+)`", prose)
    return [shlex.split(one) for one in named if "…" not in one]


@cache
def help_of(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    return said.getvalue()


@cache
def benchmark_options() -> str:
    return "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py"))


def check_benchmark(words: list[str]) -> None:
    script, *rest = words[next(i for i, word in enumerate(words) if word.startswith("benchmarks/")) :]
    assert (ROOT / script).is_file()
    for option in (word for word in rest if word.startswith("--")):
        assert f'"{option}"' in benchmark_options(), f"{script} {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_block_is_understood(document, capsys):
    for words in commands(document):
        if words[0] == "iris" and not words[1].startswith("--"):
            try:
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="iris", args=words[1:])
            except SystemExit:
                pytest.fail(f"{document}: {shlex.join(words)}\n{capsys.readouterr().err}")
        elif any(word.startswith("benchmarks/") for word in words):
            check_benchmark(words)
        elif words[:2] == ["pip", "install"]:
            for name in words[2:]:
                if extra := re.fullmatch(r"\.\[(\w+)\]", name):
                    assert extra[1] in EXTRAS
                assert not name.startswith("clients/") or (ROOT / name / "pyproject.toml").is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_named_in_the_text_exists_with_its_options(document):
    for words in inline(document):
        if words[0] != "iris":
            if any(word.startswith("benchmarks/") for word in words):
                check_benchmark(words)
        elif not words[1].startswith("-"):
            assert words[1] in COMMANDS, f"{document}: {shlex.join(words)}"
            for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
                listed = re.search(rf"{option}(?![\w-])", help_of(words[1]))
                assert listed, f"{document}: {shlex.join(words)}: no {option}"


def test_every_command_is_in_a_document():
    named = {w[1] for d in DOCUMENTS for w in (*commands(d), *inline(d)) if w[0] == "iris" and len(w) > 1}
    assert set(COMMANDS) <= named


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_snippet_of_python_compiles_and_is_run_somewhere(document):
    for block in blocks(document, "python"):
        compile(block, document, "exec")
        assert document in RUN or document == "clients/python/README.md"


def addressed(block: str, served, folder: Path) -> str:
    """A snippet with the address and token of a server that runs. The page, for which one is written, has no token."""
    block = block.replace("http://127.0.0.1:7860", served.address.rstrip("/")).replace("…", served.token)
    more = f'", headers={{"Authorization": "Bearer {served.token}"}}, download_files={str(folder)!r})'
    return block.replace('")', more, 1) if "gradio_client" in block else block


@pytest.mark.parametrize("document", RUN)
def test_the_python_of_a_document_runs(document, request, sample, tmp_path, monkeypatch):
    """Block after block, in one session, in a folder with scan.nii.gz, mask.nii.gz and query.nii.gz."""
    for theirs, ours in (("reference", "scan"), ("reference_mask", "mask"), ("query", "query")):
        shutil.copy(sample / f"{theirs}.nii.gz", tmp_path / f"{ours}.nii.gz")
    monkeypatch.chdir(tmp_path)
    session = {}
    for block in blocks(document, "python"):
        if "127.0.0.1" in block:
            block = addressed(block, request.getfixturevalue("served"), tmp_path)
        exec(compile(block, document, "exec"), session)
        for name in ("labels", "found"):
            if name in session:
                assert session[name].ndim == 3
        for name in ("client", "service"):
            if hasattr(session.get(name), "close"):
                session[name].close()
    if document == "README.md":
        assert session["labels"].shape == nibabel.load("query.nii.gz").shape and session["labels"].any()
        assert nibabel.load("query_mask.nii.gz").shape == session["labels"].shape


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = text("README.md")
    assert len(readme.splitlines()) <= 130
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text(document)):
            assert (ROOT / document).parent.joinpath(link).exists() or link == "training.json", f"{document}: {link}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not importlib.util.find_spec("mkdocs"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no mkdocs: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_holds_every_page_and_every_commands_help(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
    for notebook in (ROOT / "docs/tutorials").glob("*.ipynb"):
        page = (site / f"tutorials/{notebook.stem}.html").read_text("utf-8")
        assert all((site / "tutorials" / picture).is_file() for picture in re.findall(r'<img[^>]*src="([^"]*)"', page))
        assert page.count("<img") >= 2 and 'href="../results.html"' in page
    page = (site / "command-line.html").read_text("utf-8")
    assert all(f"usage: iris {command} " in page for command in COMMANDS)
    reference = (site / "reference.html").read_text("utf-8")
    for name in re.findall(r"^::: (\S+)$", text("docs/reference.md"), re.MULTILINE):
        assert f'id="{name}"' in reference


def test_the_site_asks_nothing_of_the_network(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video)\b[^>]*>", page.read_text("utf-8")):
            assert not re.search(r"""(?:src|href|srcset)=["']?(?:https?:)?//""", tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"""url\(\s*["']?(?:https?:)?//|@import""", style.read_text("utf-8")), style.name
    assert "search_index.js" in {p.name for p in (site / "search").iterdir()}  # search from file://, too
