"""What can be taken away from a result: tables, archives, pictures, surfaces."""

import zipfile

import numpy as np
import plotly.graph_objects as go
import pytest
from conftest import ball
from PIL import Image

from app.exports import archive, preview, write_html
from app.viewers.colours import colour
from iris_core.case import InputError


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
