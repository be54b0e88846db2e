"""Spoilt files are read or refused with a message: a few of every kind. campaign.py tries thousands."""

import pytest
import samples
from runner import GOOD, Runner

CASES, SEED = 8, 20

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, while hostile files are made


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    samples.make(root)
    with Runner(root) as running:
        yield running


@pytest.mark.parametrize("kind", samples.TARGETS)
def test_whatever_is_done_to_a_file_it_is_read_or_refused(runner, kind):
    for number in range(CASES):
        case = runner.run(kind, SEED, number)
        assert case.outcome in GOOD, case


@pytest.mark.parametrize("kind", samples.TARGETS)
def test_a_good_file_is_read(runner, kind):
    with runner.whole(kind) as folder:
        assert runner.read(kind, folder)["outcome"] == "read"


@pytest.mark.parametrize("what", ["memory", "written outside", "KeyError", "names no file", "too long", "died"])
def test_what_must_not_happen_is_noticed(runner, what, monkeypatch):
    if what == "too long":
        monkeypatch.setattr("runner.SECONDS", 1.0)
    with runner.whole("nifti") as folder:
        assert runner.read(f"probe {what}", folder)["outcome"] == what
