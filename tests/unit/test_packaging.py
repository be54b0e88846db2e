"""What a stranger installs: the same everywhere, and complete."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def locked() -> dict[str, tuple[Version, str]]:
    """Name → version and the entry of everything in the lock files."""
    text = "".join((ROOT / name).read_text("utf-8") for name in ("requirements.lock", "requirements-cuda.lock"))
    entries = re.findall(r"^[^\s#].*\n(?: .*\n)*", text, re.MULTILINE)
    named = [(re.match(r"([\w.-]+)==([\w.+!-]+)", entry), entry) for entry in entries]
    assert all(match for match, _ in named)
    return {canonicalize_name(match[1]): (Version(match[2]), entry) for match, entry in named}


def test_everything_that_is_locked_has_hashes():
    for name, (_, entry) in locked().items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name


IMAGE = {"python_version": "3.12", "python_full_version": "3.12.0"}  # the Dockerfile's


def wanted_by(requirement: Requirement, version: Version) -> list[Requirement]:
    """What a locked package wants in turn; of one that is not installed here in this version that is not known."""
    try:
        there = distribution(requirement.name)
    except PackageNotFoundError:
        return []
    lines = (there.requires or ()) if Version(there.version).public == version.public else ()
    found = map(Requirement, lines)
    extras = ("", *requirement.extras)
    return [r for r in found if r.marker is None or any(r.marker.evaluate(IMAGE | {"extra": e}) for e in extras)]


def test_the_lock_is_of_these_dependencies_and_whole():
    lock, seen = locked(), set()
    wanted = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    while wanted:
        requirement = wanted.pop()
        version, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, got {version}"
        if str(requirement) not in seen:
            seen.add(str(requirement))
            wanted += wanted_by(requirement, version)
    assert len(seen) > 100


def test_the_image_is_made_of_what_is_locked():
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for name in ("requirements.lock", "requirements-cuda.lock"):
        assert f"--require-hashes --no-deps -r /locked/{name}" in dockerfile and f"!{name}" in ignored
    assert re.findall(r"pip install(?!.*--no-deps)", dockerfile) == []
    assert {"torch", "torchvision"} <= set(re.findall(r"^(\w+)==", (ROOT / name).read_text("utf-8"), re.MULTILINE))
