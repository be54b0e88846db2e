"""An evaluation as a table in the terminal, JSON, CSV, and a figure."""

import csv
from pathlib import Path

from iris_core.files import write_atomically, write_json
from nnunet_adapters.cells import plain

SAME = 0.005  # Dice: less is no difference
LINE = "{:16} {:>5} {:28} {:>16} {:>16} {:>5} {:>8}"


def write_report(report: dict, output: Path | None) -> None:
    """Print the table; with ``output`` write the report there, every value in a CSV and the figure beside it."""
    print(LINE.format("strategy", "pool", "class", "Dice", f"NSD {report['tolerance_mm']:g} mm", "n", "s/query"))
    for row in report["results"]:
        head = row["strategy"], row["pool"]
        for name, c in row["per_class"].items():
            dice = f"{c['dice_mean']:.3f} ± {c['dice_std']:.3f}"
            surface = f"{c['surface_dice_mean']:.3f} ± {c['surface_dice_std']:.3f}"
            print(LINE.format(*head, name[:28], dice, surface, c["n"], ""))
        means = f"{row['mean_dice']:.3f}", f"{row['mean_surface_dice']:.3f}"
        print(LINE.format(*head, "mean", *means, "", f"{row['seconds_per_query']:.2f}"))
    print(f"{report['dataset']}, {report['seen']}, weights {report['weights_sha256'][:12]}")
    if output is None:
        return
    write_json(output, report)
    write_atomically(output.with_suffix(".csv"), lambda path: _write_csv(report, path))
    if len({row["pool"] for row in report["results"]} - {0}) > 1:
        write_atomically(output.with_suffix(".html"), lambda path: figure(report).write_html(path))


def print_advice(rows: list[dict], references: int, tolerance_mm: float) -> None:
    """Strategies side by side, and the one to take: the best, or a quicker one that is as good within SAME."""
    line = "{:16} {:>7} {:>9} {:>9}"
    print(line.format("strategy", "Dice", f"NSD {tolerance_mm:g} mm", "s/query"))
    for row in rows:
        values = (row["mean_dice"], row["mean_surface_dice"], row["seconds_per_query"])
        print(line.format(row["strategy"], *("-" if v is None else f"{v:.3f}" for v in values)))
    best = max(row["mean_dice"] or 0 for row in rows)
    good = [row for row in rows if (row["mean_dice"] or 0) >= best - SAME]
    advised = min(good, key=lambda row: row["seconds_per_query"])
    print(
        f"take --strategy {advised['strategy']}: mean Dice {advised['mean_dice'] or 0:.3f} when each of {references}"
        f" references was segmented from the others"
    )


def _write_csv(report: dict, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["strategy", "pool", "query", "references", "class", "dice", "surface_dice", "seconds"])
        for row in report["results"]:
            for score in row["per_case"]:
                for name, value in score["dice"].items():
                    values = ["" if v is None else v for v in (value, score["surface_dice"].get(name))]
                    references = " ".join(score["references"])
                    cells = row["strategy"], row["pool"], score["query"], references, name, *values, score["seconds"]
                    table.writerow(plain(cells))


def figure(report: dict):
    """The paper's Figure 4: mean Dice against the share of the pool, one line a strategy."""
    import plotly.graph_objects as go

    shown = go.Figure()
    for strategy in dict.fromkeys(row["strategy"] for row in report["results"]):
        rows = [row for row in report["results"] if row["strategy"] == strategy]
        if rows[0]["pool"] == 0:
            shown.add_hline(rows[0]["mean_dice"], line_dash="dot", annotation_text=strategy)
            continue
        shares = [100 * row["share"] for row in rows]
        shown.add_scatter(x=shares, y=[row["mean_dice"] for row in rows], name=strategy, mode="lines+markers")
    title = f"{report['dataset']}, {report['seen']}"
    shown.update_layout(title=title, xaxis_title="share of the training cases, %", yaxis_title="mean Dice")
    return shown.update_xaxes(type="log")
