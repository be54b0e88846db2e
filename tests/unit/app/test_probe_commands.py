"""iris evaluate --context-test and --ablate, and iris train --without, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main
from iris_core.model.iris import PARTS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def evaluate(raw_data, tiny_weights, tmp_path):
    def run(*extra, weights=tiny_weights, dataset="901"):
        report = tmp_path / "report.json"
        base = ["evaluate", "--weights", weights, "--dataset", dataset, "--raw-data", raw_data, "--output", report]
        code = main([str(a) for a in [*base, *extra]])
        return code, json.loads(report.read_text("utf-8")) if code == 0 else None

    return run


def test_context_test_prints_rows_and_a_verdict(evaluate, capsys):
    code, report = evaluate("--context-test", "--draws", "1", "--queries", "2")
    assert code == 0
    said = capsys.readouterr().out
    assert report["verdict"] in said and all(row["reference_shows"] in said for row in report["results"])
    assert [row["n"] for row in report["results"]] == [4] * 4  # two queries, two structures
    assert {"weights_sha256", "seen", "command"} <= report.keys()


def test_ablate_has_a_row_for_each_part(evaluate, capsys):
    code, report = evaluate("--ablate", "--draws", "1", "--queries", "1", dataset="902")
    assert code == 0
    assert [row["without"] for row in report["results"]] == [None, *PARTS]
    assert all(len(row["per_case"]) == 1 for row in report["results"])
    said = capsys.readouterr().out
    assert all(f"without {part}" in said for part in PARTS)


def test_evaluations_of_their_own_do_not_mix(evaluate, capsys):
    for wrong in (
        ("--ablate", "--context-test"),
        ("--ablate", "--pool", "1"),
        ("--context-test", "--strategy", "ensemble"),
        ("--queries", "0"),
    ):
        assert evaluate(*wrong)[0] == 2, wrong
        assert "--" in capsys.readouterr().err


def test_a_model_trained_without_parts_is_kept_so_and_evaluates(evaluate, raw_data, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "--datasets", "901", "--raw-data", raw_data, "--output", run, "--preset", "tiny"]
    arguments += ["--iterations", "2", "--workers", "0", "--device", "cpu", "--synthetic", "0"]
    command = [sys.executable, "-m", "app.cli", *map(str, arguments)]  # a process of its own: it handles signals
    off = ["--without", "query_tokens", "high_resolution", "spatial_memory", "registration"]
    done = subprocess.run([*command, *off], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert (config["query_tokens"], config["high_resolution"], config["registration"]) == (0, False, False)
    code, report = evaluate("--ablate", "--draws", "1", "--queries", "1", weights=run)
    assert code == 0
    assert [row["without"] for row in report["results"]] == [None, "prototypes", "location_prior"]
    assert subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True).returncode == 2  # another model
