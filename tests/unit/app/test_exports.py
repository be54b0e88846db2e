"""What can be taken away from a result: tables, archives, pictures, surfaces."""

import csv
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
from conftest import ball
from PIL import Image

from app import report
from app.commands import atlas
from app.exports import archive, preview, statistics, write_html, write_statistics
from app.viewers.colours import colour
from iris_core.case import Case, InputError
from nnunet_adapters import new_dataset
from nnunet_adapters.cells import FORMULA


@pytest.fixture
def rows() -> list[dict]:
    """Of a scan stored as (z, x, y) with x reversed: 2 × 3 × 4 voxels of 5, a single one of 9, none of 7."""
    affine = np.array([[0, -2.0, 0, 10], [0, 0, 3, 20], [4, 0, 0, 30], [0, 0, 0, 1]])
    labels = np.zeros((8, 9, 10), np.int32)
    labels[1:3, 2:5, 3:7] = 5
    labels[7, 8, 9] = 9
    labels[3, 5, 7] = 9
    image = np.where(labels == 5, 100, -4).astype(np.float32)
    image[1, 2, 3] = 124
    return statistics(Case(image, affine), labels, (5, 9, 7), ("box", "dots", "none"), {"box": 0.5})


def test_statistics_are_in_patient_coordinates(rows):
    box, dots, none = rows
    assert (box["name"], box["value"], box["voxels"], box["components"], box["confidence"]) == ("box", 5, 24, 1, 0.5)
    assert box["volume_ml"] == pytest.approx(24 * 24 / 1000)
    assert box["centroid_mm"] == pytest.approx([10 - 2 * 3, 20 + 3 * 4.5, 30 + 4 * 1.5])
    assert box["extent_mm"] == pytest.approx([3 * 2, 4 * 3, 2 * 4])
    assert (box["mean"], box["min"], box["max"], box["median"]) == (101, 100, 124, 100)
    assert box["sd"] == pytest.approx(24 * np.sqrt(23) / 24)
    assert dots["components"] == 2
    assert (none["voxels"], none["volume_ml"], none["components"]) == (0, 0, 0)
    assert none["mean"] is none["centroid_mm"] is none["confidence"] is None


def test_a_ball_has_its_diameter_and_surface():
    """Of radius 20 mm, in voxels of 1 × 2 × 1 mm, stored turned about; a single voxel; nothing."""
    affine = np.array([[0, -1.0, 0, 0], [0, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    labels = ball((50, 50, 25), (24, 24, 12), 20, (1, 1, 2)).astype(np.int32)
    labels[0, 0, 0] = 2
    case = Case(np.zeros(labels.shape, np.float32), affine)
    round_, single, none = statistics(case, labels, (1, 2, 3), ("ball", "voxel", "none"), {})
    assert round_["diameter_mm"] == pytest.approx(41, abs=1)
    assert 1 < round_["surface_mm2"] / (4 * np.pi * 20**2) < 1.12
    assert single["diameter_mm"] == pytest.approx(2)
    assert none["diameter_mm"] is none["surface_mm2"] is None


def test_the_table_and_the_json_say_the_same(rows, tmp_path):
    rows = [row | {"scan": "Müller, 2"} for row in rows]
    write_statistics(rows, tmp_path / "a.csv", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == rows
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert next(iter(table[0])) == "scan"
    assert [row["scan"] for row in table] == ["Müller, 2"] * 3
    assert float(table[0]["centroid_mm_z"]) == rows[0]["centroid_mm"][2]
    assert float(table[1]["volume_ml"]) == rows[1]["volume_ml"]
    assert table[2]["mean"] == table[2]["extent_mm_x"] == ""


def test_an_archive_holds_names_without_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mask.nii").write_bytes(folder.encode())
    (tmp_path / "b" / "other.nii").write_bytes(b"b")
    archive([tmp_path / "a" / "mask.nii", tmp_path / "b" / "other.nii"], tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {"mask.nii": b"a", "other.nii": b"b"}
    with pytest.raises(InputError, match="found twice"):
        archive([tmp_path / "a" / "mask.nii", tmp_path / "b" / "mask.nii"], tmp_path / "two.zip")
    with pytest.raises(InputError, match=r"gone\.nii"):
        archive([tmp_path / "gone.nii"], tmp_path / "two.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "all.zip", "b"]


@pytest.mark.parametrize("count", [1, 40])
def test_a_preview_shows_slices_and_a_legend(tmp_path, count):
    labels = ball().astype(np.uint8)
    names = [f"structure {i}, with a long name" for i in range(count)]
    preview((labels * 90).astype(np.uint8), labels, (1.0, 1.0, 2.0), names, "query: " + "x" * 300, tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape[1] == 3 * 512
    legend = picture[34 + 2 * 16 + 512 :].reshape(-1, 3)
    for index in range(min(count, 15)):
        assert (legend == colour(index)).all(1).sum() >= 18 * 18
    slices = picture[34 + 2 * 16 : 34 + 2 * 16 + 512]
    assert (np.ptp(slices, -1) > 50).any()  # something in colour
    preview(labels * 0, labels * 0, (1.0, 1.0, 2.0), names, "", tmp_path / "empty.png")


def test_the_surfaces_need_no_network(tmp_path):
    write_html(go.Figure(go.Mesh3d(x=[0, 1, 0], y=[0, 0, 1], z=[0, 0, 0])), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text("utf-8")
    assert len(text) > 1_000_000
    assert "<script src=" not in text.replace("'", '"')


HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "＝1"]


def test_names_are_no_formulas_in_any_table(tmp_path):
    """In the page's statistics, an evaluation's values, an atlas and the cases of a new dataset; numbers stay."""
    write_statistics([{"name": n, "mean": -1.5, "scan": n} for n in HOSTILE], tmp_path / "a.csv", tmp_path / "a.json")
    score = {"query": "=q", "references": ["=r"], "dice": {n: 0.5 for n in HOSTILE}, "surface_dice": {}, "seconds": 1}
    report._write_csv({"results": [{"strategy": "auto", "pool": 0, "per_case": [score]}]}, tmp_path / "b.csv")
    neighbours = {f"D/{n}": [(f"=E/{n}", -0.5)] for n in HOSTILE}
    atlas._write_csv(SimpleNamespace(neighbours=neighbours), tmp_path / "c.csv")
    scans = [Path(f"{n.replace('/', '')}.nii.gz") for n in HOSTILE]
    cases = [new_dataset.Labelled(s, list, {"=a": -0.5}, "=b") for s in scans]
    text = new_dataset._table(cases, dict(zip(scans, HOSTILE, strict=True)), ["=a"])
    (tmp_path / "d.csv").write_text(text, "utf-8", newline="")
    for path in sorted(tmp_path.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert {"'" + n for n in HOSTILE} <= set(cells), path
        numbers = {cell for cell in cells if cell.startswith(FORMULA)}
        assert numbers <= {"-1.5", "-0.5"}, path
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))[0]["name"] == HOSTILE[0]
