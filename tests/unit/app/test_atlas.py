"""The atlas: like vectors lie together, neighbours are of other datasets, few points draw, all of it is written."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli import main
from app.viewers.atlas import NEIGHBOURS, Entry, figure, known_atlas, make_atlas, picture
from iris_core.embeddings import MemoryBank
from iris_core.model.task_encoder import Task


def organs(repeats: int) -> tuple[np.ndarray, list[Entry]]:
    """Three organs in two datasets, each organ a direction of its own, each dataset a small shift."""
    rng = np.random.default_rng(0)
    vectors, entries = [], []
    for d, dataset in enumerate(("CT", "MR")):
        for k, organ in enumerate(("liver", "spleen", "<b>kidney")):
            for i in range(repeats):
                vectors.append(10 * np.eye(12)[k] + 2 * np.eye(12)[6 + d] + rng.normal(0, 0.3, 12))
                entries.append(Entry(dataset, organ, f"case{i}"))
    return np.array(vectors), entries


def test_like_structures_are_neighbours_across_datasets_and_lie_together():
    vectors, entries = organs(6)
    atlas = make_atlas(vectors, entries)
    for key, nearest in atlas.neighbours.items():
        dataset, organ = key.split("/")
        other = {"CT": "MR", "MR": "CT"}[dataset]
        assert len(nearest) == NEIGHBOURS and nearest[0][0] == f"{other}/{organ}" and nearest[0][1] > 0.8
        assert all(name.startswith(other) for name, _ in nearest)
        assert [c for _, c in nearest] == sorted((c for _, c in nearest), reverse=True)
    distances = np.linalg.norm(atlas.places[:, None] - atlas.places, axis=-1) + 1e9 * np.eye(len(entries))
    assert all(entries[i].name == entries[j].name for i, j in enumerate(distances.argmin(1)))
    assert atlas.own == (36, 36)
    again = make_atlas(vectors, entries)
    assert (again.places == atlas.places).all() and again.neighbours == atlas.neighbours


@pytest.mark.parametrize("n", range(1, 8))
def test_few_points_draw_and_so_do_equal_ones(n, tmp_path):
    vectors, entries = organs(2)
    for some in (vectors[:n], np.ones((n, 12))):
        atlas = make_atlas(some, entries[:n])
        assert atlas.places.shape == (n, 2) and np.isfinite(atlas.places).all()
        assert sum(len(trace.x) for trace in figure(atlas).data) == n
    named = replace(atlas, entries=tuple(replace(e, name=r"$\frac$", dataset="$x_$") for e in atlas.entries))
    picture(named, tmp_path / "few.png")  # names are no formulas


def test_the_figure_has_a_colour_a_dataset_a_marker_a_class_and_names_on_hover():
    ct, mr = figure(make_atlas(*organs(2))).data
    assert (ct.name, mr.name) == ("CT", "MR") and ct.marker.color != mr.marker.color
    assert ct.marker.symbol == mr.marker.symbol and len(set(ct.marker.symbol)) == 3
    assert "liver" in ct.text[0] and "case0" in ct.text[0] and "MR/liver" in ct.text[0]
    assert "&lt;b&gt;kidney" in ct.text[-1] and "<b>kidney" not in ct.text[-1].replace("<b>&lt;", "")


def test_known_classes_need_no_dataset():
    bank = MemoryBank()
    assert not known_atlas(bank).entries
    torch.manual_seed(0)
    for key in ("A/one", "A/two/three", "B/one"):
        bank.update([key], Task.compact(torch.randn(1, 1, 4, 8), torch.randn(1, 1, 0, 2, 4), torch.randn(1, 1, 10)))
    atlas = known_atlas(bank)
    assert [e.key for e in atlas.entries] == ["A/one", "A/two/three", "B/one"]
    assert {name for name, _ in atlas.neighbours["B/one"]} == {"A/one", "A/two/three"}


def test_the_command_writes_page_picture_table_and_numbers(raw_data, tiny_weights, tmp_path, capsys):
    out = tmp_path / "atlas.html"
    base = ["atlas", "--weights", tiny_weights, "--raw-data", raw_data, "--output", out]
    assert main([str(a) for a in [*base, "--datasets", "901", "902", "--cases", "2"]]) == 0
    found = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert len(found["points"]) == 2 * 2 * 2 and {"x", "y", "case", "dataset", "name"} <= found["points"][0].keys()
    balls, regions = "Dataset901_Balls", "Dataset902_Regions"
    assert set(found["neighbours"]) == {f"{balls}/ball", f"{balls}/core", f"{regions}/whole", f"{regions}/core"}
    page = out.read_text("utf-8")
    assert all(page.count(said) for said in ("Dataset902_Regions", "most alike elsewhere", "plotly"))
    with Image.open(out.with_suffix(".png")) as drawn:
        assert drawn.size[0] > 500
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text("utf-8").splitlines()))
    assert len(rows) == 4 * 2 and all(row["dataset"] != row["nearest dataset"] for row in rows)
    assert "8 embeddings of 4 classes" in capsys.readouterr().out
    assert main([str(a) for a in base]) == 2  # these weights know no class
    assert "--datasets" in capsys.readouterr().err
    assert main([str(a) for a in [*base, "--datasets", "901", "--cases", "0"]]) == 2
