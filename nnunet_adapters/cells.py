"""Cells of a CSV: what people named, as text, which a spreadsheet would else run."""

from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # as OWASP lists them; numbers are no text here


def plain(cells: Iterable) -> list:
    """The cells of a row; text that a spreadsheet takes for a formula begins with an apostrophe."""
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells]
