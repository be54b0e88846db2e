"""An archive: the same bytes as a folder, once each, whatever is damaged or missing; real files, a real S3 server."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti

from app.archive.places import identity, put, read, scans_in
from app.cli import main
from iris_core.case import InputError


@pytest.fixture
def queries(tmp_path) -> list[str]:
    rng = np.random.default_rng(1)
    (tmp_path / "queries").mkdir()
    shapes = (24, 20, 22), (20, 24, 18), (30, 18, 20)
    return [
        str(write_nifti(tmp_path / "queries" / f"q{i}.nii.gz", rng.normal(size=shape).astype("f4")))
        for i, shape in enumerate(shapes)
    ]


@pytest.fixture
def segment(tiny_weights, scan, capsys):
    def run(*arguments, shown=True) -> tuple[int, str]:
        given = ["--reference", scan[0], "--mask", scan[1], "--names", "1=ball"] if shown else []
        code = main(["segment", "--weights", str(tiny_weights), *map(str, (*given, *arguments))])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def manifest(tmp_path, lines, header="query") -> str:
    path = tmp_path / "scans.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def masks(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*.nii.gz") if "probabilities" not in p.parts}


def table(folder, name="results.parquet") -> list[dict]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / name).to_pylist()


def status(folder) -> dict[str, str]:
    return {row["output"]: row["status"] for row in table(folder)}


def test_masks_are_those_of_a_folder_and_are_made_once(segment, queries, tmp_path):
    assert segment("--query", *queries, "--output", tmp_path / "folder")[0] == 0
    rows = manifest(tmp_path, queries)
    for expected in ("done", "kept"):
        assert segment("--manifest", rows, "--output", tmp_path / "archive")[0] == 0
        assert masks(tmp_path / "archive") == masks(tmp_path / "folder")
        assert status(tmp_path / "archive") == {f"q{i}.nii.gz": expected for i in range(3)}
    entries = json.loads((tmp_path / "folder" / "run.json").read_text())["results"]
    for row in table(tmp_path / "archive"):
        entry = entries[row["output"]]
        assert dict(row["volumes_ml"]) == entry["volumes_ml"] and dict(row["confidence"]) == entry["confidence"]
    report = json.loads((tmp_path / "archive" / "run.json").read_text())
    assert report["counts"] == {"kept": 3} and len(report["weights_sha256"]) == 64


def test_what_changed_is_made_anew(segment, queries, tmp_path):
    run = "--manifest", manifest(tmp_path, queries), "--output", tmp_path / "archive"
    segment(*run)
    os.utime(queries[0], (1, 1))  # another scan
    (tmp_path / "archive" / "q1.nii.gz").write_bytes(b"damaged")
    segment(*run)
    assert status(tmp_path / "archive") == {"q0.nii.gz": "done", "q1.nii.gz": "done", "q2.nii.gz": "kept"}
    (tmp_path / "archive" / "q0.nii.gz").unlink()
    (tmp_path / "archive" / "q1.nii.gz.json").write_text("[]")
    code, said = segment(*run)
    assert code == 1 and "q1.nii.gz: exists and is no result of a former run" in said
    assert status(tmp_path / "archive") == {"q0.nii.gz": "done", "q1.nii.gz": "failed", "q2.nii.gz": "kept"}
    segment(*run, "--threshold", "0.4")
    assert status(tmp_path / "archive")["q2.nii.gz"] == "done"


def test_a_damaged_scan_is_a_row_with_its_error(segment, queries, tmp_path):
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"no scan")
    rows = manifest(tmp_path, [queries[0], str(damaged), str(tmp_path / "missing.nii.gz"), queries[1]])
    code, said = segment("--manifest", rows, "--output", tmp_path / "archive")
    assert code == 1 and "2 of 4 queries done" in said
    found = {row["output"]: row for row in table(tmp_path / "archive")}
    assert "damaged.nii.gz: not a readable NIfTI" in found["damaged.nii.gz"]["error"]
    assert "missing.nii.gz" in found["missing.nii.gz"]["error"]
    assert set(masks(tmp_path / "archive")) == {"q0.nii.gz", "q1.nii.gz"}


def test_rows_show_their_own_task_and_name_their_own_file(segment, queries, scan, tmp_path, tiny_weights):
    task = tmp_path / "ball.task.safetensors"
    shown = "--reference", scan[0], "--mask", scan[1], "--names", "1=ball"
    assert main(["encode", "--weights", str(tiny_weights), *map(str, (*shown, "--output", task))]) == 0
    segment("--query", queries[0], "--output", tmp_path / "folder")
    rows = manifest(tmp_path, [f"{queries[0]},p1/mask.nii.gz,{scan[0]},{scan[1]}"], "query,output,reference,mask")
    run = "--output", tmp_path / "archive", "--names", "1=ball"
    assert segment("--manifest", rows, *run, shown=False)[0] == 0
    rows = manifest(tmp_path, [f"{queries[0]},p2/mask.nii.gz,{task}"], "query,output,task")
    assert segment("--manifest", rows, *run, shown=False)[0] == 0
    (expected,) = masks(tmp_path / "folder").values()
    for name in ("p1", "p2"):
        assert (tmp_path / "archive" / name / "mask.nii.gz").read_bytes() == expected
    code, said = segment("--manifest", rows, "--output", tmp_path / "other")
    assert code == 2 and "leave out one" in said


def test_parts_make_the_whole(segment, queries, tmp_path):
    rows = manifest(tmp_path, queries)
    for number in range(2):
        part = "--num-parts", 2, "--part-id", number
        assert segment("--manifest", rows, "--output", tmp_path / "archive", *part)[0] == 0
    found = [row["output"] for n in range(2) for row in table(tmp_path / "archive", f"results_part{n}_of_2.parquet")]
    assert sorted(found) == sorted(masks(tmp_path / "archive")) == ["q0.nii.gz", "q1.nii.gz", "q2.nii.gz"]


def test_no_result_replaces_a_scan(segment, queries, tmp_path):
    before = [read(query) for query in queries]
    code, said = segment("--manifest", manifest(tmp_path, queries), "--output", tmp_path / "queries")
    assert code == 1 and said.count("is no result of a former run") == 3
    assert [read(query) for query in queries] == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--engine", "dask"], "--engine must be local, ray"),
        (["--engine", "ray:"], "--engine must be local, ray"),
        (["--statistics"], "--statistics and --pool"),
        (["--query", "a.nii.gz"], "one of the two"),
        (["--strategy", "tuning", "--part-id", "1"], "--part-id must be"),
    ],
)
def test_what_does_not_go_together_is_refused(segment, queries, tmp_path, more, says):
    code, said = segment("--manifest", manifest(tmp_path, queries), "--output", tmp_path / "archive", *more)
    assert code == 2 and says in said


@pytest.fixture(scope="module")
def bucket():
    """A bucket of an S3 server on the loopback, reached as any other: by the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "s3cret-testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem().mkdir("scans")
        yield "s3://scans"
    server.stop()


def test_an_archive_in_a_store_gives_the_same_bytes(segment, bucket, queries, scan, tmp_path):
    segment("--query", *queries, "--output", tmp_path / "folder")
    for query in queries:
        put(Path(query), f"{bucket}/in/{Path(query).name}")
    for path in scan:
        put(path, f"{bucket}/{path.name}")
    put(Path(queries[0]), f"{bucket}/broken/q0.nii.gz")
    shown = "--reference", f"{bucket}/scan.nii.gz", "--mask", f"{bucket}/mask.nii.gz", "--names", "1=ball"
    for expected in ("done", "kept"):
        code, said = segment("--query", f"{bucket}/in", "--output", f"{bucket}/out", *shown, shown=False)
        assert code == 0 and "s3cret" not in said
        put_back = tmp_path / "results.parquet"
        put_back.write_bytes(read(f"{bucket}/out/results.parquet"))
        assert status(tmp_path) == {f"q{i}.nii.gz": expected for i in range(3)}
    assert {name: read(f"{bucket}/out/{name}") for name in masks(tmp_path / "folder")} == masks(tmp_path / "folder")
    assert b"s3cret" not in b"".join(read(f"{bucket}/out/{name}") for name in ("run.json", "q0.nii.gz.json"))
    code, said = segment("--query", f"{bucket}/none/q9.nii.gz", "--output", f"{bucket}/out", *shown, shown=False)
    assert code == 2 and f"{bucket}/none/q9.nii.gz: no such file or folder" in said


def test_a_series_in_a_store_is_one_scan(bucket, tmp_path):
    from app.archive.places import fetch

    for i in range(3):
        (tmp_path / f"{i}.dcm").write_bytes(bytes([i]))
        put(tmp_path / f"{i}.dcm", f"{bucket}/series/{i}.dcm")
    assert scans_in((f"{bucket}/series",)) == [f"{bucket}/series"]
    (tmp_path / "here").mkdir()
    assert sorted(p.name for p in fetch(f"{bucket}/series", tmp_path / "here").iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]
    before = identity(f"{bucket}/series")
    put(tmp_path / "2.dcm", f"{bucket}/series/1.dcm")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert identity(f"{bucket}/series") != before
    with pytest.raises((InputError, FileNotFoundError)):
        identity(f"{bucket}/nothing")
