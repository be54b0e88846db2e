"""What a stranger installs: the same everywhere, and complete."""

import tomllib
from pathlib import Path

import yaml

from iris_core import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_spaces_get_the_dependencies_of_the_package():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["project"]["dependencies"]


def test_every_package_is_listed():
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for top in ("app", "iris_core", "nnunet_adapters", "weights")
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_changelog_tells_of_this_version():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_every_package_says_that_it_is_typed():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for top in ("app", "iris_core", "nnunet_adapters", "weights"):
        assert (ROOT / top / "py.typed").is_file() and "py.typed" in data[top]


def test_the_readme_names_its_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "iris app --sample" in text.split("<!-- run -->")[1].split("```")[1]
    assert "pytest" in text.split("<!-- test -->")[1].split("```")[1]


def test_released_weights_are_whole_and_small():
    for folder in (p.parent for p in (ROOT / "weights").glob("*/config.json")):
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        assert names == {"model.safetensors", "config.json", "bank.safetensors", "training.json", "README.md"}
        assert (folder / "model.safetensors").stat().st_size <= 16.1e6
