"""`iris segment` with masks of other formats, in and out."""

import json

import nibabel
import numpy as np
import pytest
from conftest import ball, write_nifti
from dicom_files import write_series

from app.cli import main
from nnunet_adapters.images import read_reference, read_scan
from nnunet_adapters.masks import ENDINGS, WRITERS, read_mask
from nnunet_adapters.masks.mask import Structure

SHAPE = (24, 20, 22)
STRUCTURES = [Structure(1, "ball", (10, 200, 30)), Structure(3, "core", (200, 20, 30))]


@pytest.fixture
def series(tmp_path):
    volume = (ball() * 500 + np.random.default_rng(0).integers(-50, 50, SHAPE)).astype(np.int16)
    return write_series(tmp_path / "series", volume=volume, spacing_mm=(1, 1, 1))


@pytest.fixture
def segment(tmp_path, tiny_weights):
    def run(*arguments) -> int:
        fixed = ["segment", "--weights", tiny_weights, "--output", tmp_path / "out", "--no-confidence"]
        return main([str(a) for a in (*fixed, *arguments)])

    return run


@pytest.mark.parametrize("format", WRITERS)
def test_a_format_in_and_the_same_out(series, tmp_path, segment, format):
    mask = tmp_path / f"mask{ENDINGS[format]}"
    labels = ball().astype(np.int32)
    labels[ball(radius=3.0)] = 3
    WRITERS[format](labels, series, STRUCTURES, mask)
    shown = ("--reference", series, "--mask", mask, "--query", series)
    assert segment(*shown, "--format", format, "--threshold", 0.01) == 0  # the tiny model is sure of nothing
    report = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    (name,) = report["results"]
    assert name == f"series{ENDINGS[format]}"
    entry = report["results"][name]
    assert set(entry["classes"].values()) == {"ball", "core"}
    assert sum(entry["volumes_ml"].values()) > 0
    found = read_mask(tmp_path / "out" / name, read_scan(series))
    assert set(found.names.values()) <= {"ball", "core"}
    shown = {name: found.colours[value] for value, name in found.names.items()}
    for structure in STRUCTURES:
        if structure.name in shown:
            assert np.abs(np.subtract(shown[structure.name], structure.colour)).max() <= 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"run.json", name}


def test_probabilities_lie_on_the_querys_grid(scan, tmp_path, segment):
    query = write_nifti(
        tmp_path / "query.nii.gz", nibabel.load(scan[0]).get_fdata().astype(np.float32), np.diag([-1.0, 1, 1, 1])
    )
    shown = ("--reference", scan[0], "--mask", scan[1], "--names", "1=a/b ball")
    assert segment(*shown, "--query", query, "--probabilities", "--threshold", 0.3) == 0
    entry = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["results"]["query.nii.gz"]
    assert entry["probabilities"] == {"a/b ball": "probabilities/query_1_a_b_ball.nii.gz"}
    image = nibabel.load(tmp_path / "out" / entry["probabilities"]["a/b ball"])
    share, labels = np.asarray(image.dataobj), np.asarray(nibabel.load(tmp_path / "out" / "query.nii.gz").dataobj)
    assert (image.affine == nibabel.load(query).affine).all()
    assert (share == share.astype(np.float16)).all()
    clear = np.abs(share - 0.3) > 1e-3
    assert ((share > 0.3) == (labels == 1))[clear].all()


def test_pieces_that_are_too_small_are_left_out(scan, tmp_path, segment):
    shown = ("--reference", scan[0], "--mask", scan[1], "--query", scan[0])
    assert segment(*shown, "--min-ml", 1000, "--keep-largest") == 0
    entry = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["results"]["scan.nii.gz"]
    assert entry["volumes_ml"] == {"class 1": 0}
    assert not np.asarray(nibabel.load(tmp_path / "out" / "scan.nii.gz").dataobj).any()


def test_statistics_of_all_results(scan, tmp_path, segment, capsys):
    shown = ("--reference", scan[0], "--mask", scan[1], "--names", "1=ball", "--statistics")
    more = write_nifti(tmp_path / "more.nii.gz", nibabel.load(scan[0]).get_fdata().astype(np.float32) + 7, np.eye(4))
    assert segment(*shown, "--query", scan[0]) == 0
    assert segment(*shown, "--query", scan[0], more, "--continue") == 0  # figures of what was kept are kept
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text("utf-8"))
    assert [(row["scan"], row["name"]) for row in rows] == [("scan.nii.gz", "ball"), ("more.nii.gz", "ball")]
    for row in rows:
        labels = np.asarray(nibabel.load(tmp_path / "out" / row["scan"]).dataobj)
        assert row["voxels"] == (labels == 1).sum() > 0
    table = (tmp_path / "out" / "statistics.csv").read_text("utf-8").splitlines()
    assert len(table) == 3 and table[0].startswith("scan,name,value,voxels,volume_ml,mean,sd,")

    (tmp_path / "out" / "run.json").unlink()  # not ours to replace
    capsys.readouterr()
    for path in tmp_path.glob("out/*.nii.gz"):
        path.unlink()
    assert segment(*shown, "--query", scan[0]) == 2
    assert "statistics.csv: exists and is of no former run" in capsys.readouterr().err


def test_a_former_result_does_not_stay_where_nothing_was_found(series, tmp_path, segment):
    mask = tmp_path / "mask.seg.dcm"
    WRITERS["dicom-seg"](ball().astype(np.int32), series, STRUCTURES[:1], mask)
    shown = ("--reference", series, "--mask", mask, "--query", series, "--format", "dicom-seg")
    assert segment(*shown, "--threshold", 0.01) == 0
    assert (tmp_path / "out" / "series.seg.dcm").is_file()
    assert segment(*shown, "--min-ml", 1000) == 1
    assert not (tmp_path / "out" / "series.seg.dcm").exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--format", "dicom-seg"), "--format dicom-seg is for folders of DICOM files"),
        (("--threshold", "2"), "--threshold must be"),
        (("--min-ml", "-1"), "--min-ml must be"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(scan, tmp_path, segment, capsys, extra, says):
    assert segment("--reference", scan[0], "--mask", scan[1], "--query", scan[0], *extra) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_grid(scan, tmp_path, segment, capsys):
    finer = write_nifti(
        tmp_path / "finer.nii.gz", ball((48, 40, 44), (22, 18, 20), 12.0).astype(np.uint8), np.diag([0.5, 0.5, 0.5, 1])
    )
    shown = ("--reference", scan[0], "--mask", finer, "--query", scan[0])
    assert segment(*shown) == 2
    assert "--resample-mask" in capsys.readouterr().err
    assert segment(*shown, "--resample-mask") == 0
    assert read_reference(scan[0], finer, resample=True).labels.any()
