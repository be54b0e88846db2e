"""What leaves the page besides the masks: tables, pictures, archives, HTML and DICOM-SEG. Values in, files out."""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label as components
from skimage.measure import marching_cubes, mesh_surface_area

from app.viewers.colours import colour
from app.viewers.slices import SIDE, Style, best_position, slices
from iris_core.case import Case, InputError
from iris_core.checkpoint import write_atomically, write_json
from iris_core.geometry import Orientation, extent
from nnunet_adapters.cells import plain
from nnunet_adapters.masks.dicom_seg import write as dicom_seg

__all__ = ["archive", "dicom_seg", "preview", "statistics", "write_html", "write_statistics"]

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Pillow's own has no ö, é or Greek
OPACITY = 0.45
MARGIN = 16  # pixels
LINE = 34  # pixels, height of a line of text
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
        row["components"] = int(components(mask[box], connectivity=3).max())
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


def archive(files: list[Path], output: Path) -> None:
    """A zip of files under their names alone, atomically. Raises InputError for a missing file or a repeated name."""
    twice = [name for name, count in Counter(path.name for path in files).items() if count > 1]
    if twice:
        raise InputError(f"{output.name}: files in an archive must have different names, found twice: {twice[:5]}")
    for path in files:
        if not path.is_file():
            raise InputError(f"{path.name}: is no longer there to be put into {output.name}; segment again")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.name)

    write_atomically(output, write)


def preview(
    image: np.ndarray,
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    names: Sequence[str],
    title: str,
    output: Path,
) -> None:
    """A PNG: the three slices that show most of the structures, a title above and a legend below, atomically.

    image: (x, y, z) uint8 in RAS+ order. labels: of the same shape, 0 is background, i the i-th of ``names``.
    spacing_mm: voxel size along x, y, z.
    """
    pictures = slices(image, labels, spacing_mm, best_position(labels), Style((0, 255), OPACITY)).values()
    font = ImageFont.truetype(FONT, 22)
    width = 3 * SIDE
    found = {int(i) for i in np.unique(labels)}
    texts = [name if i in found else f"{name} (not found)" for i, name in enumerate(names, 1)]
    entries, lines = _legend(texts, font, width)
    canvas = Image.new("RGB", (width, LINE + 2 * MARGIN + SIDE + lines * LINE + 2 * MARGIN))
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), _fitted(title, font, width - 2 * MARGIN), (255, 255, 255), font)
    top = LINE + 2 * MARGIN
    for column, picture in enumerate(pictures):
        canvas.paste(Image.fromarray(picture), (column * SIDE, top))
    top += SIDE + MARGIN
    for index, (left, line, text) in enumerate(entries):
        y = top + line * LINE
        draw.rectangle((left, y + 4, left + 18, y + 22), colour(index))
        draw.text((left + 28, y), text, (255, 255, 255), font)
    write_atomically(output, lambda temporary: canvas.save(temporary, "PNG"))


def _legend(texts: list[str], font, width: int) -> tuple[list[tuple[int, int, str]], int]:
    """Left edge, line and text of each entry, from left to right and on to the next line; the number of lines."""
    left, line, entries = MARGIN, 0, []
    for text in texts:
        text = _fitted(text, font, width // 2)
        need = 28 + int(font.getlength(text)) + 2 * MARGIN
        if left > MARGIN and left + need > width:
            left, line = MARGIN, line + 1
        entries.append((left, line, text))
        left += need
    return entries, line + 1


def _fitted(text: str, font, width: int) -> str:
    """A text of one line, cut with an ellipsis where it is too wide."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def write_html(figure: go.Figure, output: Path) -> None:
    """A Plotly figure as one HTML file that needs no network (about 5 MB: the library is in it), atomically."""
    write_atomically(output, lambda temporary: figure.write_html(temporary, include_plotlyjs=True))
