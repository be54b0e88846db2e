"""Figures of what was found."""

import csv
import json

import numpy as np
import pytest
from conftest import ball

from iris_core.case import Case
from nnunet_adapters.statistics import statistics, write_statistics


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
