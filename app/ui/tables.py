"""What the page says in HTML: tables of structures and sentences on how a run went."""

from collections.abc import Iterable
from html import escape

from app.results import LOW, TOLERANCE_MM, Result, Scan
from app.viewers.colours import ERRORS, css


def said(kind: str, *sentences: str) -> str:
    """Paragraphs. kind: 'good', 'warn', 'bad' or ''. Sentences are HTML already."""
    return "".join(f'<p class="{kind}">{sentence}</p>' for sentence in sentences)


def structures_table(result: Result, scan: Scan) -> str:
    """All that is known of each structure of one scan."""
    columns = {"mL": {name: f"{volume:,.2f}" for name, volume in scan.volumes_ml.items()}}
    if scan.confidence:
        columns["confidence"] = {name: f"{value:.2f}" for name, value in scan.confidence.items()}
    if scan.scores:
        kinds = {
            "Dice": lambda s: s.dice,
            f"within {TOLERANCE_MM:g} mm": lambda s: s.surface_dice,
            "distance mm": lambda s: s.distance_mm,
        }
        for title, pick in kinds.items():
            values = {name: pick(score) for name, score in scan.scores.items()}
            columns[title] = {name: "–" if v is None else f"{v:.2f}" for name, v in values.items()}
    rows = []
    for i, name in enumerate(result.names):
        cells = "".join(
            f"<td{' class=low' if title == 'confidence' and name in scan.doubtful() else ''}>"
            f"{escape(str(column.get(name, '–')))}</td>"
            for title, column in columns.items()
        )
        rows.append(f"<tr>{_named(i, name)}{cells}</tr>")
    text = [f"<b>{escape(name)}</b> was shown by {escape(note)}." for name, note in scan.notes.items()]
    if scan.confidence:
        trust = "Confidence: how well the reference is found again with this mask as its reference,"
        text.insert(0, f"{trust} and how alike the two look.")
    if scan.scores:
        values = {row["name"]: row["value"] for row in result.rows}
        meant = ", ".join(f"{values[name]} is {escape(name)}" for name in scan.scores if name in values)
        text.insert(
            0,
            f"Against the true mask, in which {meant}: Dice (overlap, 0 to 1), the share of both surfaces within"
            f" {TOLERANCE_MM:g} mm, and the mean distance of the surfaces.",
        )
    if scan.overlapping:
        text.insert(
            0,
            "These structures are regions that may lie within one another. The mask holds one value a voxel: the"
            " figures of a region leave out what was painted over it.",
        )
    return _table("structure", columns, rows) + "".join(f"<p>{sentence}</p>" for sentence in text)


def volumes_table(result: Result) -> str:
    """Classes in rows, scans in columns, mL."""
    rows = []
    for i, name in enumerate(result.names):
        cells = "".join(f"<td>{scan.volumes_ml[name]:,.2f}</td>" for scan in result.scans)
        rows.append(f"<tr>{_named(i, name)}{cells}</tr>")
    return _table("mL", [scan.title for scan in result.scans], rows)


def outcome(result: Result, failures: Iterable[str], seconds: float) -> str:
    """How a run went, with a plain warning where confidence is low. failures: HTML."""
    done = f"{len(result.masks)} of {result.asked} queries segmented in {seconds:.0f} s."
    parts = [said("warn", f"Cancelled. {done}") if result.stopped else said("good" if result.masks else "bad", done)]
    parts.append(said("bad", *failures))
    for scan in result.queries:
        if doubtful := scan.doubtful():
            which = ", ".join(f"{escape(name)} ({value:.2f})" for name, value in doubtful.items())
            parts.append(
                said(
                    "warn",
                    f"<b>Low confidence in {escape(scan.name)}: {which}.</b> Below {LOW:g} a mask is often wrong. Go"
                    " through its slices; then show a reference that is more alike, or correct the mask in step 4.",
                )
            )
    return "".join(parts)


def error_legend() -> str:
    names = ("both agree", "this mask alone", "the true mask alone")
    marks = (f'<i style="background: rgb{rgb}"></i>{name}' for rgb, name in zip(ERRORS, names, strict=True))
    return said("", "Errors: " + " &nbsp; ".join(marks))


def _named(index: int, name: str) -> str:
    return f'<td><i style="background: {css(index)}"></i>{escape(name)}</td>'


def _table(first: str, columns: Iterable[str], rows: list[str]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in (first, *columns))
    return f'<div class="table"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
