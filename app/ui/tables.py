"""What the page says in HTML: tables of structures and sentences on how a run went."""

from collections.abc import Iterable
from html import escape

from app.results import LOW, TOLERANCE_MM, Layer, Result, Scan
from app.viewers.colours import css

ERROR_NAMES = "both agree", "this mask alone", "the true mask alone"


def said(kind: str, *sentences: str) -> str:
    """Paragraphs. kind: 'good', 'warn', 'bad' or ''. Sentences are HTML already."""
    return "".join(f'<p class="{kind}">{sentence}</p>' for sentence in sentences)


def structures_table(result: Result, scan: Scan) -> str:
    """All that is known of each structure of one scan."""
    columns = {"mL": {name: _volume(scan, name) for name in result.names}}
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


COLUMNS = "scan", "structure", "mL", "confidence", "remark"


def scans_table(result: Result) -> list[list]:
    """A row of COLUMNS for each scan and structure, to be sorted."""
    rows = []
    for scan in result.scans:
        for name in result.names if scan.mask else ():
            trust = scan.confidence.get(name)
            remark = "low confidence" if name in scan.doubtful() else "corrected" if scan.corrected else ""
            rows.append([scan.title, name, round(scan.volumes_ml.get(name, 0.0), 2), trust and round(trust, 2), remark])
    return rows


def _volume(scan: Scan, name: str) -> str:
    volume = scan.volumes_ml.get(name) if scan.mask else None
    return "–" if volume is None else f"{volume:,.2f}"


def outcome(result: Result, failures: Iterable[str], seconds: float, before: float | None = None) -> str:
    """How a run went, with a plain warning where confidence is low, and which query to correct next. failures: HTML.
    before: the mean confidence of the visitor's former result."""
    done = f"{len(result.masks)} of {result.query_count} queries segmented in {seconds:.0f} s."
    parts = [said("warn", f"Cancelled. {done}") if result.stopped else said("good" if result.masks else "bad", done)]
    parts.append(said("bad", *failures))
    if result.trust is not None:
        text = f"Mean confidence {result.trust:.2f}" + (f", {before:.2f} before." if before is not None else ".")
        if len(result.queries) > 1:
            worst = result.worst()
            text += f" If something is wrong, correct first: <b>{escape(worst.name)}</b> ({worst.trust:.2f})."
        parts.append(said("", text))
    for scan in result.queries:
        if doubtful := scan.doubtful():
            which = ", ".join(f"{escape(name)} ({value:.2f})" for name, value in doubtful.items())
            parts.append(
                said(
                    "warn",
                    f"<b>Low confidence in {escape(scan.name)}: {which}.</b> Below {LOW:g} a mask is often wrong. Go"
                    " through its slices; then show a reference that is more alike, or correct the mask and show it"
                    " again.",
                )
            )
    return "".join(parts)


def once_corrected(result: Result) -> str:
    """What to do next, once a query was corrected."""
    left = sum(query.trust is not None for query in result.queries)
    then = f"the {left} others are segmented again, the worst first" if left else "the next queries gain by it"
    again = f"Corrected. Press <b>Show it again</b>: this scan becomes a reference, and {then}."
    return said("good", f"{again} The zip and the statistics come anew with it.")


def legend(layer: Layer) -> str:
    marks = (f'<i style="background: rgb{rgb}"></i>{escape(name)}' for name, rgb in layer.legend.items())
    return said("", " &nbsp; ".join(marks))


def _named(index: int, name: str) -> str:
    return f'<td><i style="background: {css(index)}"></i>{escape(name)}</td>'


def _table(first: str, columns: Iterable[str], rows: list[str]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in (first, *columns))
    region = 'class="table" role="region" aria-label="Figures" tabindex="0"'  # by the keyboard, to scroll it
    return f"<div {region}><table><tr>{head}</tr>{''.join(rows)}</table></div>"
