"""What leaves the page besides the masks: pictures, archives, HTML and DICOM-SEG. Values in, files out."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont

from app.viewers.colours import colour
from app.viewers.slices import SIDE, Style, best_position, slices
from iris_core.case import InputError
from iris_core.files import write_atomically
from nnunet_adapters.masks.dicom_seg import write as dicom_seg

__all__ = ["archive", "dicom_seg", "preview", "write_html"]

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Pillow's own has no ö, é or Greek
OPACITY = 0.45
MARGIN = 16  # pixels
LINE = 34  # pixels, height of a line of text


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
