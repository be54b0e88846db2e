"""What was found, in figures: a row for each structure of each scan, as a table and as JSON."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label as connected
from skimage.measure import marching_cubes, mesh_surface_area

from iris_core.case import Case
from iris_core.files import write_atomically, write_json
from iris_core.geometry import Orientation, extent
from nnunet_adapters.cells import plain

INTENSITIES = {"mean": np.mean, "sd": np.std, "min": np.min, "max": np.max, "median": np.median}
TRIPLES = ("centroid_mm", "extent_mm")


def statistics(
    case: Case,
    labels: np.ndarray,
    values: Sequence[int],
    names: Sequence[str],
    confidence: dict[str, float],
) -> list[dict]:
    """A row a class: what was found of it, and how bright it is.

    labels: (x, y, z) on the case's grid, in file order. values, names: label value and name of each class.
    confidence: class name → 0 to 1; may lack classes.

    A row holds name, value, voxels, volume_ml, the image's mean, sd, min, max and median inside, centroid_mm (R, A, S
    in patient coordinates), extent_mm (of the bounding box, from left to right, back to front, foot to head),
    components (pieces that do not touch, not even at a corner), diameter_mm (the largest distance between two points of
    the surface), surface_mm2 and confidence. What a class that was not found cannot have, and an unknown confidence, is
    None. The surface is the mesh of marching cubes around the voxels, as the Image Biomarker Standardisation Initiative
    has it: of a ball some 8 % too large, for its steps.
    """
    orientation = Orientation.of(case.affine)
    rows = []
    for value, name in zip(values, names, strict=True):
        mask = labels == value
        row = {"name": name, "value": int(value), "voxels": int(mask.sum()), "volume_ml": 0.0}
        row |= dict.fromkeys((*INTENSITIES, *TRIPLES))
        row |= {"components": 0, "diameter_mm": None, "surface_mm2": None, "confidence": confidence.get(name)}
        rows.append(row)
        if not row["voxels"]:
            continue
        first, last = extent(mask)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        inside = case.image[box][mask[box]].astype(np.float64)
        centre = case.affine @ [*(np.argwhere(mask[box]).mean(0) + first), 1]
        across_mm = ((last - first) * case.spacing_mm)[list(orientation.axes)]
        row["volume_ml"] = row["voxels"] * case.voxel_ml
        row |= {key: float(of(inside)) for key, of in INTENSITIES.items()}
        row["centroid_mm"] = [float(v) for v in centre[:3]]
        row["extent_mm"] = [float(v) for v in across_mm]
        row["components"] = int(connected(mask[box], connectivity=3).max())
        row["diameter_mm"], row["surface_mm2"] = _diameter_and_surface(mask[box], case.affine)
    return rows


def _diameter_and_surface(mask: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """Of what a mask (x, y, z) marks, in mm and mm²."""
    vertices, faces, *_ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    vertices = vertices @ affine[:3, :3].T
    outermost = vertices[ConvexHull(vertices).vertices]
    return float(pdist(outermost).max()), float(mesh_surface_area(vertices, faces))


def write_statistics(rows: list[dict], csv: Path, json: Path) -> None:
    """Rows of ``statistics`` as a table and as JSON, atomically.

    A row may carry more columns, such as the "scan" that it is of. In the table a list of three becomes three columns
    (centroid_mm_x, …) and None an empty cell; names are text, never formulas. Columns come in the order in which rows
    name them, "scan" first.
    """
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys([*("scan" for row in flat if "scan" in row), *(key for row in flat for key in row)]))
    write_atomically(csv, lambda temporary: temporary.write_text(_table(flat, columns), "utf-8"))
    write_json(json, rows)


def _flat(row: dict) -> dict:
    flat: dict = {}
    for key, value in row.items():
        if key in TRIPLES:
            flat |= {f"{key}_{axis}": value and value[i] for i, axis in enumerate("xyz")}
        else:
            flat[key] = value
    return flat


def _table(rows: list[dict], columns: list[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(zip(row, plain(row.values()), strict=True)) for row in rows)
    return text.getvalue()
