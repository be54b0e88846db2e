"""Manifests: read as a stream, each bad row named with what is wrong and what to do."""

import pytest

from app.archive.archive import is_archive
from app.archive.manifest import Row, check_all, checked, columns, mask_name, of_part, rows
from app.archive.places import address, fetch
from app.commands.segment import Segment
from iris_core.case import InputError
from nnunet_adapters.folder import Part


def manifest(tmp_path, text: str, name: str = "scans.csv") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_rows_of_a_csv_and_of_parquet_are_the_same(tmp_path):
    import pyarrow.csv
    import pyarrow.parquet

    text = "query,output,task\ns3://b/001.nii.gz,p1/001.nii.gz,t.task.safetensors\n/d/002.nii.gz,,\n"
    csv = manifest(tmp_path, text)
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(csv), tmp_path / "scans.parquet")
    found = list(rows(csv, "query"))
    assert found == list(rows(str(tmp_path / "scans.parquet"), "query"))
    assert found[0] == Row("s3://b/001.nii.gz", "p1/001.nii.gz", task=address("t.task.safetensors"))
    assert found[1] == Row("/d/002.nii.gz", "002.nii.gz")


def test_a_name_of_digits_stays_text(tmp_path):
    assert [row.output for row in rows(manifest(tmp_path, "query\n/d/001\n"), "seg.nrrd")] == ["001.seg.nrrd"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (",a.nii.gz,,", "row 2: query must be a path or an address, got nothing"),
        ("/d/b.nii.gz,../b.nii.gz,,", "row 2: output must be a name such as"),
        ("/d/b.nii.gz,/etc/b.nii.gz,,", "row 2: output must be a name such as"),
        ("/d/b.nii.gz,p/.b.nii.gz,,", "row 2: output must be a name such as"),
        ("/d/b.nii.gz,c:b.nii.gz,,", "row 2: output must be a name such as"),
        ("/d/b.nii.gz,s3://x/b.nii.gz,,", "row 2: output must be a name such as"),
        ("/d/b.nii.gz,b.exe,,", "row 2: with --format query output must end in"),
        ("/d/b.nii.gz,,/d/r.nii.gz,", "row 2: reference and mask must both be there"),
        ("https://host/b.nii.gz,,,", "row 2: https://host/b.nii.gz: an address must begin with s3://"),
        ("zip://x.nii.gz::s3://b/a.zip,,,", "row 2: .* an address must begin with s3://"),
        ("s3://,,,", "row 2: .* must end in the name of a file"),
        ("/d/b\tc.nii.gz,,,", "row 2: query must be a line"),
        ("x" * 5000 + ",,,", "row 2: query must be a line of at most 4096 characters"),
        ("/d/b.nii.gz,,", "not readable as a manifest"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, says):
    text = f"query,output,reference,mask\n/d/a.nii.gz,,,\n{row}\n"
    with pytest.raises(InputError, match=rf"scans\.csv: {says}"):
        list(rows(manifest(tmp_path, text), "query"))


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("scan\n/d/a.nii.gz\n", "scans.csv", "its columns must be query .*found scan"),
        ("query,refrence\n/d/a,b\n", "scans.csv", "its columns must be query"),
        ("query,query\n/d/a,b\n", "scans.csv", "its columns must be query"),
        ("query,reference\n/d/a,b\n", "scans.csv", "reference and mask, or task"),
        ("query,reference,mask,task\n/d/a,b,c,d\n", "scans.csv", "reference and mask, or task"),
        ("", "scans.csv", "not readable as a manifest"),
        ("no parquet", "scans.parquet", "not readable as a manifest"),
        ("query\n", "scans.txt", r"must end in \.csv or \.parquet"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, text, name, says):
    with pytest.raises(InputError, match=says):
        columns(manifest(tmp_path, text, name))


def test_two_rows_that_would_write_one_file_are_named():
    found = [checked("here", {"query": f"/{folder}/scan.nii.gz"}, "query") for folder in "abca"]
    with pytest.raises(InputError, match="rows 1 and 2 would write the same file, and 2 more"):
        check_all("scans.csv", found, Part())
    assert check_all("scans.csv", found[:1], Part()) == 1 and check_all("scans.csv", [], Part()) == 0


def test_each_row_is_in_one_part():
    found = [Row(f"/d/{i}.nii.gz", f"{i}.nii.gz") for i in range(300)]
    parts = [list(of_part(found, Part(number, 4))) for number in range(4)]
    assert sorted((row for part in parts for row in part), key=found.index) == found
    assert min(map(len, parts)) > 50


@pytest.mark.parametrize(
    ("query", "format", "name"),
    [
        ("s3://b/k/scan.nii.gz", "query", "scan.nii.gz"),
        ("s3://b/k/scan.mhd", "query", "scan.mha"),
        ("s3://b/k/series/", "query", "series.nii.gz"),
        ("s3://b/k/series", "rtstruct", "series.rtstruct.dcm"),
        ("hf://o/n/scan.nrrd", "seg.nrrd", "scan.seg.nrrd"),
    ],
)
def test_masks_are_named_as_a_folder_names_them(query, format, name):
    assert mask_name(query, format) == name


def test_an_address_that_a_path_folded_is_one_again(tmp_path):
    from pathlib import Path

    assert address(Path("s3://bucket/key")) == "s3://bucket/key"
    assert address("file:///d/a.nii.gz") == "/d/a.nii.gz"
    assert address("S3://bucket/key") == "s3://bucket/key"
    assert fetch(str(tmp_path), tmp_path) == tmp_path
    assert not is_archive(Segment(query=(Path("a"),), output=Path("b"), task=("hf://o/n/t.task.safetensors",)))
    assert is_archive(Segment(query=(Path("a"),), output=Path("s3://bucket/b")))
