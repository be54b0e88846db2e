"""SECURITY.md says nothing that is not there: tests, limits, addresses."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from app.limits import Limits

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_test_that_is_named_exists():
    named = set(re.findall(r"`(test_\w+)`", SECURITY))
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(named) > 30 and named <= there, named - there


def test_every_attack_names_a_test():
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 12
    for row in rows:
        assert len(cells := row.strip("|").split(" | ")) == 4 and "`test_" in cells[3], row


def test_every_limit_is_in_the_documents_with_its_default():
    page = (ROOT / "docs" / "page.md").read_text("utf-8")
    for field in fields(Limits):
        option = f"--limits.{field.name.replace('_', '-')}"
        assert re.search(rf"`{option}`.*`IRIS_{field.name.upper()}`.*\| {field.default} ", page), option
