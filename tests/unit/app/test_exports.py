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
from app.exports import archive, preview, write_html
from app.viewers.colours import colour
from iris_core.case import InputError
from nnunet_adapters import new_dataset
from nnunet_adapters.cells import FORMULA
from nnunet_adapters.statistics import write_statistics


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
