"""The command line on real scans: outputs, run.json, --continue, names, evaluation reports."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import write_nifti

from app.cli import COMMANDS, EXIT_CODES, main


@pytest.fixture
def segment(scan, tmp_path, tiny_weights):
    def run(*queries, extra=(), out="out"):
        arguments = ["segment", "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1]]
        arguments += ["--output", tmp_path / out, *extra, "--query", *queries]
        return main([str(a) for a in arguments]), tmp_path / out

    return run


def test_each_result_lies_on_its_querys_grid(segment, tmp_path, sample):
    folder = tmp_path / "queries"
    folder.mkdir()
    rng = np.random.default_rng(0)
    oblique = np.array([[0.9, -0.3, 0, 5], [0.3, 0.9, 0.1, -7], [0, -0.1, 2.0, 3], [0, 0, 0, 1]])
    write_nifti(folder / "oblique.nii.gz", rng.normal(size=(12, 17, 9)).astype(np.float32), oblique)
    write_nifti(folder / "flat.nii", rng.normal(size=(30, 31, 1)).astype(np.float32), np.diag([-1.0, 1, 10, 1]))
    (folder / "real.nii.gz").write_bytes((sample / "query.nii.gz").read_bytes())
    (folder / "notes.txt").write_text("not a scan")
    code, out = segment(folder, extra=("--names", "1=ball"))
    assert code == 0
    report = json.loads((out / "run.json").read_text("utf-8"))
    assert set(report["results"]) == {"oblique.nii.gz", "flat.nii", "real.nii.gz"}
    for name, entry in report["results"].items():
        query, mask = nibabel.load(folder / name), nibabel.load(out / name)
        assert mask.shape == query.shape
        assert (mask.affine == query.affine).all()
        for code_name in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
            assert (mask.header[code_name] == query.header[code_name]).all(), (name, code_name)
        volume = (np.asarray(mask.dataobj) == 1).sum() * abs(np.linalg.det(query.affine[:3, :3])) / 1000
        assert entry["volumes_ml"]["ball"] == pytest.approx(volume, rel=1e-4)
        assert entry["spacing_mm"] > 0
    assert len(report["weights_sha256"]) == 64


def test_continue_keeps_what_is_there(segment, scan):
    code, out = segment(scan[0])
    before = (out / "scan.nii.gz").stat().st_mtime_ns
    code, out = segment(scan[0], scan[1], extra=("--continue",))
    assert code == 0
    assert (out / "scan.nii.gz").stat().st_mtime_ns == before
    results = json.loads((out / "run.json").read_text("utf-8"))["results"]
    assert results["scan.nii.gz"]["status"] == "kept"
    assert "volumes_ml" in results["scan.nii.gz"]
    assert results["mask.nii.gz"]["status"] == "done"


def test_results_never_overwrite_scans_or_each_other(segment, scan, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scan.nii.gz").write_bytes(scan[0].read_bytes())
    code, _ = segment(scan[0], tmp_path / "other" / "scan.nii.gz")
    assert code == 2
    assert "would overwrite" in capsys.readouterr().err
    labels = tmp_path / "labels"
    labels.mkdir()
    by_hand = labels / "scan.nii.gz"
    by_hand.write_bytes(scan[1].read_bytes())
    for out in (".", "labels"):
        before = scan[0].read_bytes(), by_hand.read_bytes()
        code, _ = segment(scan[0], out=out)
        assert code == 2
        assert (scan[0].read_bytes(), by_hand.read_bytes()) == before


def test_one_failure_of_any_kind_leaves_the_others_done(segment, scan, monkeypatch, capsys):
    from nnunet_adapters import folder

    real = folder.read_scan

    def out_of_memory_for_the_first(path):
        if path == scan[0]:
            raise RuntimeError("not enough memory")
        return real(path)

    monkeypatch.setattr(folder, "read_scan", out_of_memory_for_the_first)
    code, out = segment(*scan)
    assert code == 1
    assert f"{scan[0]}: not enough memory" in capsys.readouterr().err
    assert (out / "mask.nii.gz").is_file()


def test_parts_share_a_folder(segment, scan, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(5):
        (folder / f"q{i}.nii.gz").write_bytes(scan[0].read_bytes())
    for number in (0, 1):
        code, out = segment(folder, extra=("--num-parts", 2, "--part-id", number))
        assert code == 0
    found = {}
    for path in out.glob("run*.json"):
        results = json.loads(path.read_text("utf-8"))["results"]
        assert not found.keys() & results.keys()
        found |= results
    assert found.keys() == {f"q{i}.nii.gz" for i in range(5)} == {p.name for p in out.glob("*.nii.gz")}
    code, _ = segment(folder, extra=("--num-parts", 2, "--part-id", 2))
    assert code == 2


def test_a_mask_that_cannot_be_written_is_the_failure_of_its_query(segment, scan, monkeypatch, tmp_path, capsys):
    from nnunet_adapters import outputs

    real = outputs.write_mask

    def disk_full_for_the_first(labels, like, output, structures):
        if like == scan[0]:
            raise OSError("no space left on device")
        real(labels, like, output, structures)

    monkeypatch.setattr(outputs, "write_mask", disk_full_for_the_first)
    code, out = segment(*scan)
    assert code == 1
    assert f"{scan[0]}: no space left on device" in capsys.readouterr().err
    results = json.loads((out / "run.json").read_text("utf-8"))["results"]
    assert {name: entry["status"] for name, entry in results.items()} == {
        "scan.nii.gz": "failed",
        "mask.nii.gz": "done",
    }


def test_a_scan_that_changes_while_it_is_segmented_leaves_no_mask(segment, scan, monkeypatch, tmp_path, capsys):
    """Its mask would have the new scan's header and the old one's labels."""
    from nnunet_adapters import outputs

    real, query = outputs.write_mask, tmp_path / "query.nii.gz"
    query.write_bytes(scan[0].read_bytes())

    def replaced_before(labels, like, output, structures):
        if like == query:
            other = tmp_path / "other.nii.gz"
            nibabel.save(nibabel.Nifti1Image(nibabel.load(scan[0]).get_fdata(), np.diag([9.0, 9, 9, 1])), other)
            other.replace(query)
        real(labels, like, output, structures)

    monkeypatch.setattr(outputs, "write_mask", replaced_before)
    code, out = segment(query, scan[1])
    assert code == 1
    assert "was changed while it was segmented; run again for its mask" in capsys.readouterr().err
    assert not (out / "query.nii.gz").exists() and (out / "mask.nii.gz").is_file()
    monkeypatch.setattr(outputs, "write_mask", real)
    assert segment(query, scan[1], extra=("--continue",))[0] == 0
    assert nibabel.load(out / "query.nii.gz").affine[0, 0] == 9


def test_a_killed_run_continues_without_loss(scan, tiny_weights, tmp_path):
    """Killed half-way through a folder: no half-written mask, and the second run does the rest, each once. A mask that
    the first run could not list any more, with its volumes, is made anew."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    folder, out = tmp_path / "many", tmp_path / "masks"
    folder.mkdir()
    for i in range(30):
        (folder / f"q{i:02}.nii.gz").write_bytes(scan[0].read_bytes())
    command = [sys.executable, "-m", "app.cli", "segment", "--weights", tiny_weights, "--reference", scan[0], "--mask"]
    command = [str(c) for c in [*command, scan[1], "--query", folder, "--output", out, "--continue"]]
    where = {"cwd": Path(__file__).parents[3], "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **where)
    while len(list(out.glob("q*.nii.gz"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("q*.nii.gz")}
    assert 5 <= len(before) < 30
    for name in before:
        nibabel.load(out / name).get_fdata()  # whole
    listed = json.loads((out / "run.json").read_text("utf-8"))["results"]
    done = {name for name, entry in listed.items() if entry["status"] == "done"}
    assert len(before) - len(done & before.keys()) <= 1
    assert subprocess.run(command, **where).returncode == 0
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("q*.nii.gz")}
    assert len(after) == 30
    assert all(after[name] == before[name] for name in done)
    results = json.loads((out / "run.json").read_text("utf-8"))["results"]
    assert results.keys() == after.keys()
    assert {entry["status"] for entry in results.values()} == {"kept", "done"}
    assert all("volumes_ml" in entry for entry in results.values())


def test_evaluate_writes_the_report(raw_data, tmp_path, tiny_weights, capsys):
    report = tmp_path / "report.json"
    arguments = ["evaluate", "--weights", tiny_weights, "--dataset", "901", "--raw-data", raw_data]
    assert main([str(a) for a in [*arguments, "--draws", "2", "--output", report]]) == 0
    found = json.loads(report.read_text("utf-8"))
    assert found["seen"] == "unseen dataset, unseen classes"
    assert {"weights_sha256", "command", "tolerance_mm"} <= set(found)
    (row,) = found["results"]
    assert (row["strategy"], row["pool"]) == ("one_shot", 1)
    assert set(row["per_class"]) == {"ball", "core"}
    assert row["per_class"]["ball"]["n"] == 4  # two validation cases, two draws
    assert row["mean_dice"] == pytest.approx(np.mean([c["dice_mean"] for c in row["per_class"].values()]))
    assert 0 <= row["mean_surface_dice"] <= 1
    patients = json.loads((raw_data / "Dataset901_Balls" / "patients.json").read_text("utf-8"))
    assert all(patients[p["query"]] != patients[p["references"][0]] for p in row["per_case"])
    assert "one_shot" in capsys.readouterr().out
    table = report.with_suffix(".csv").read_text("utf-8").splitlines()
    assert len(table) == 1 + 4 * 2
    assert not report.with_suffix(".html").exists()  # one pool is no curve


def test_evaluate_compares_strategies_over_pools(raw_data, tmp_path, tiny_weights, capsys):
    report = tmp_path / "report.json"
    arguments = ["evaluate", "--weights", tiny_weights, "--dataset", "901", "--raw-data", raw_data, "--output", report]
    strategies = ["one_shot", "ensemble", "retrieval", "image_retrieval", "tuning"]
    options = ["--strategy", *strategies, "--pool", "1", "100%", "--draws", "2", "--steps", "2", "--top-k", "1"]
    assert main([str(a) for a in [*arguments, *options]]) == 0
    rows = json.loads(report.read_text("utf-8"))["results"]
    assert [(r["strategy"], r["pool"]) for r in rows] == [("one_shot", 1)] + [
        (s, n) for s in strategies[1:] for n in (1, 4)
    ]
    same = [r["mean_dice"] for r in rows if r["pool"] == 1 and r["strategy"] != "tuning"]
    assert same == pytest.approx([same[0]] * 4)  # a pool of one is one-shot
    assert "plotly" in report.with_suffix(".html").read_text("utf-8")
    for wrong in (["--strategy", "ensemble"], ["--pool", "0.5"], ["--pool", "9", "--strategy", "ensemble"]):
        assert main([str(a) for a in [*arguments, *wrong]]) == 2, wrong


def test_advise_leaves_one_out_and_names_a_strategy(raw_data, scan, tiny_weights, tmp_path, capsys):
    base = ["advise", "--weights", tiny_weights]
    assert main([str(a) for a in [*base, "--dataset", "901", "--raw-data", raw_data, "--cases", "3"]]) == 0
    out = capsys.readouterr().out
    assert "take --strategy" in out
    assert all(name in out for name in ("one_shot", "ensemble", "retrieval", "image_retrieval", "tuning"))
    assert main([str(a) for a in [*base, "--reference", scan[0], "--mask", scan[1]]]) == 2
    assert "two patients" in capsys.readouterr().err
    assert main([str(a) for a in base]) == 2
    assert main([str(a) for a in [*base, "--dataset", "901", "--raw-data", raw_data, "--cases", "1"]]) == 2


def test_unknown_weights_and_names_are_named(segment, scan, capsys):
    assert main(["evaluate", "--weights", "nobody", "--dataset", "4"]) == 2
    assert "nobody" in capsys.readouterr().err
    code, _ = segment(scan[0], extra=("--names", "ball"))
    assert code == 2
    assert "value=name" in capsys.readouterr().err


def test_figures_are_tagged_by_what_training_saw(raw_data):
    from app.commands.evaluate import seen_tag
    from nnunet_adapters.raw import open_dataset

    dataset = open_dataset("901", raw_data)
    other = {"Dataset001_Other": {"classes": {"Core": 1.0}}}
    assert seen_tag(dataset, {}, "val") == "unseen dataset, unseen classes"
    assert seen_tag(dataset, other, "val") == "unseen dataset, seen classes: core"
    assert seen_tag(dataset, {dataset.name: {}}, "val") == "seen dataset, unseen patients"
    assert seen_tag(dataset, {dataset.name: {}}, "all") == "seen dataset, patients in training"


def test_a_reader_that_leaves_early_is_no_crash(tiny_weights):
    """As in `iris classes | head -1`."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "app.cli", "classes", "--weights", str(tiny_weights)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], stdout=writing, stderr=subprocess.PIPE, encoding="utf-8"
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


BAD_INPUT = {
    "train": ["--datasets", "4", "--raw-data", "nowhere", "--output", "run"],
    "encode": ["--output", "a.task.safetensors"],
    "segment": ["--query", "a.nii.gz", "--output", "masks"],
    "label": ["--query", "a.nii.gz", "--output", "Dataset001_A"],
    "classes": ["--weights", "nobody"],
    "evaluate": ["--dataset", "4", "--raw-data", "nowhere"],
    "advise": [],
    "atlas": ["--weights", "nobody", "--output", "atlas.html"],
    "push": ["--repo-id", "you/iris"],
    "pull": ["no/name/of/weights"],
    "space": [],
    "app": ["--weights", "nobody"],
    "serve": ["--weights", "nobody"],
    "selftest": ["--device", "nonsense"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_of_every_command_is_exit_code_2_and_writes_nothing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if command in BAD_INPUT:
        assert main([command, *BAD_INPUT[command]]) == 2
        assert "iris: error: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([command, "--no-such-option", "1"])
    assert ended.value.code == 2
    assert not list(tmp_path.iterdir())


def test_the_help_and_the_documents_say_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 some queries failed", "2 bad input", "130 interrupted"):
        assert code in said
        assert code in EXIT_CODES
    document = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text("utf-8")
    assert " ".join(EXIT_CODES.split()) in " ".join(document.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_a_shell(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--tyro-print-completion", shell])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)
    assert "min-confidence" in printed
