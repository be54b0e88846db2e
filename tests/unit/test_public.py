"""What a stranger imports: a few names, each explained, none of which costs anything before it is used."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import app
import iris_core
from app import Service, read_reference, read_scan, write_mask
from iris_core import STRATEGIES, Case, TaskEmbedding, encode, load, segment

ROOT = Path(__file__).parents[2]


def test_the_public_names():
    assert set(iris_core.__all__) == {"Case", "STRATEGIES", "TaskEmbedding", "encode", "load", "segment"}
    assert set(app.__all__) == {"Service", "read_reference", "read_scan", "write_mask"}


@pytest.mark.parametrize("package", [app, iris_core])
def test_checkers_and_python_find_the_same_names(package):
    """What a type checker reads is imported for it alone, and again at first use."""
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    (checked,) = (n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    places = {alias.name: line.module for line in checked.body for alias in line.names}
    assert set(places) == set(package.__all__)
    for name, module in places.items():
        assert getattr(package, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        package.decode  # noqa: B018


def test_every_public_name_has_a_docstring():
    names = {name: getattr(package, name) for package in (app, iris_core) for name in package.__all__}
    methods = {name: method for name, method in inspect.getmembers(Service, callable) if not name.startswith("_")}
    for name, value in (names | STRATEGIES | methods).items():
        assert name == "STRATEGIES" or len(inspect.getdoc(value) or "") > 30, name


def test_nothing_is_loaded_before_it_is_used():
    code = "import sys, app, iris_core, app.cli; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_types_of_the_public_surface_and_of_the_readmes_script(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text(re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1], "utf-8")
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["files"]
    mypy = subprocess.run([sys.executable, "-m", "mypy", *checked, script], cwd=ROOT, capture_output=True, text=True)
    assert mypy.returncode == 0, mypy.stdout + mypy.stderr


def test_from_files_to_a_mask(eager_weights, scan, tmp_path):
    service, output = Service(str(eager_weights), "cpu"), tmp_path / "found.nii.gz"
    task = service.encode(read_reference(*map(str, scan)))
    labels = service.segment(task, read_scan(str(scan[0])))
    write_mask(labels, like=str(scan[0]), output=str(output))
    assert labels.any() and np.array_equal(read_reference(scan[0], output).labels, labels)


def test_the_method_alone_does_what_the_service_does(eager_weights, scan):
    service, model = Service(str(eager_weights), "cpu"), load(eager_weights).model
    reference, query = read_reference(*scan), read_scan(scan[0])
    assert isinstance(reference, Case)
    for references in ([reference], [reference] * 2):
        task = encode(model, *references)
        assert isinstance(task, TaskEmbedding) and len(task.references) == len(references)
        labels = segment(model, task, query)
        assert labels.any() and np.array_equal(labels, service.segment(service.encode(*references), query))
    with pytest.raises(ValueError, match="at least one reference"):
        encode(model)
