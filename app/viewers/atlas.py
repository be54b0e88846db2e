"""The atlas: task embeddings as points of a plane, near one another where the model finds structures alike.

The vector of a class is the whole of T's tokens, T_f and T_c, flattened: what the decoder is given and what retrieval
compares (paper, Figure 5). Vectors are compared around the mean of the classes, by cosine: what all tasks share says
nothing of one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from app.viewers.colours import PALETTE, css
from app.viewers.mesh import CLEAR, FONT
from iris_core.embeddings import MemoryBank, TaskEmbedding

NEIGHBOURS = 3
PERPLEXITY = 30  # t-SNE's usual one; fewer points take a third of their number
MARKERS = {  # Plotly's name → matplotlib's
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "x": "X", "triangle-up": "^", "triangle-down": "v",
    "triangle-left": "<", "triangle-right": ">", "pentagon": "p", "hexagon": "h", "star": "*",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What a point is: a class of a dataset, in one case, or '' where the vector is a mean over many."""

    dataset: str
    name: str
    case: str = ""

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True)
class Atlas:
    """entries with their places (n, 2); neighbours: 'Dataset/class' → the nearest of other datasets, with cosines.

    own: of how many entries the nearest of all others is of the same class, and of how many it could be.
    """

    entries: tuple[Entry, ...]
    places: np.ndarray
    neighbours: dict[str, list[tuple[str, float]]]
    own: tuple[int, int]

    def to_dict(self) -> dict:
        """For JSON: points, and neighbours of each class."""
        points = [
            asdict(e) | {"x": float(x), "y": float(y)} for e, (x, y) in zip(self.entries, self.places, strict=True)
        ]
        return {"points": points, "neighbours": self.neighbours, "own": self.own}


def task_vectors(embedding: TaskEmbedding) -> np.ndarray:
    """One row a class: its tokens, flattened."""
    return embedding.task.tokens[0].flatten(1).float().cpu().numpy()


def known_atlas(bank: MemoryBank) -> Atlas:
    """The classes that weights know, from their memory bank alone: no dataset is needed."""
    entries = tuple(Entry(*key.split("/", 1)) for key in sorted(bank.entries))
    vectors = [bank.entries[e.key].tokens.float().flatten().cpu().numpy() for e in entries]
    return make_atlas(np.stack(vectors) if vectors else np.zeros((0, 1)), entries)


def make_atlas(vectors: np.ndarray, entries: Sequence[Entry]) -> Atlas:
    """vectors (n, d), one an entry. The same vectors give the same atlas."""
    rows: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        rows.setdefault(entry.key, []).append(i)
    means = np.array([vectors[i].mean(0) for i in rows.values()]).reshape(len(rows), vectors.shape[1])
    centre = means.mean(0) if len(rows) > 1 else np.zeros(vectors.shape[1])  # of classes: large datasets weigh no more
    datasets = np.array([entries[i[0]].dataset for i in rows.values()])
    neighbours = _nearest(_unit(means - centre), list(rows), datasets)
    units = _unit(vectors - centre)
    own = _own(units, [i for rows_of_class in rows.values() if len(rows_of_class) > 1 for i in rows_of_class], entries)
    return Atlas(tuple(entries), _places(units), neighbours, own)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _own(units: np.ndarray, repeated: list[int], entries: Sequence[Entry]) -> tuple[int, int]:
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    return sum(entries[i].key == entries[cosines[i].argmax()].key for i in repeated), len(repeated)


def _nearest(units: np.ndarray, keys: list[str], datasets: np.ndarray) -> dict[str, list[tuple[str, float]]]:
    cosines = units @ units.T
    found = {}
    for key, dataset, row in zip(keys, datasets, cosines, strict=True):
        order = [int(j) for j in np.argsort(-row, kind="stable") if datasets[j] != dataset]
        found[key] = [(keys[j], round(float(row[j]), 4)) for j in order[:NEIGHBOURS]]
    return found


def _places(units: np.ndarray) -> np.ndarray:
    """t-SNE of unit vectors, where distance and cosine say the same; (n, 2). Up to three points: principal axes."""
    n = len(units)
    if n < 2:
        return np.zeros((n, 2), np.float32)
    axes, lengths, _ = np.linalg.svd(units - units.mean(0), full_matrices=False)
    start = np.zeros((n, 2), np.float32)
    start[:, : min(2, axes.shape[1])] = (axes * lengths)[:, :2]
    if n <= 3:  # three points lie in a plane already, and t-SNE needs more neighbours than they have
        return start
    from sklearn.manifold import TSNE

    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)  # principal axes, as small as t-SNE wants its beginning
    return TSNE(perplexity=min(PERPLEXITY, (n - 1) / 3), init=start, random_state=0).fit_transform(units)


def figure(atlas: Atlas) -> go.Figure:
    """One trace a dataset, a marker a class; hovering names the point and the nearest classes of other datasets."""
    chart = go.Figure()
    marks = _marks(atlas)
    for index, dataset in enumerate(_datasets(atlas)):
        mine = [i for i, entry in enumerate(atlas.entries) if entry.dataset == dataset]
        x, y = np.asarray(atlas.places, float)[mine].T
        chart.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=escape(dataset),
            text=[_told(atlas, atlas.entries[i]) for i in mine],
            hovertemplate="%{text}<extra></extra>",
            marker={
                "color": css(index),
                "size": 10,
                "symbol": [marks[atlas.entries[i].name] for i in mine],
                "line": {"width": 0.5, "color": FONT["color"]},
            },
        )
    hidden = {"visible": False}
    return chart.update_layout(
        xaxis=hidden,
        yaxis=hidden | {"scaleanchor": "x"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"orientation": "h", "y": -0.02},
        plot_bgcolor=CLEAR,
        paper_bgcolor=CLEAR,
        font=FONT,
    )


def _told(atlas: Atlas, entry: Entry) -> str:
    case = f" · {escape(entry.case)}" if entry.case else ""
    near = "".join(f"<br>{cosine:+.2f} {escape(key)}" for key, cosine in atlas.neighbours[entry.key])
    return f"<b>{escape(entry.name)}</b>{case}<br>{escape(entry.dataset)}" + (
        f"<br>most alike elsewhere:{near}" * bool(near)
    )


def picture(atlas: Atlas, path: Path) -> None:
    """The same as a PNG, with the name of each class at the middle of its points."""
    from matplotlib.figure import Figure

    sheet = Figure((11, 8), layout="constrained")
    axes = sheet.add_subplot()
    marks = _marks(atlas)
    for index, dataset in enumerate(_datasets(atlas)):
        rows: dict[str, list[int]] = {}
        for i, entry in enumerate(atlas.entries):
            if entry.dataset == dataset:
                rows.setdefault(entry.name, []).append(i)
        colour = np.array(PALETTE[index % len(PALETTE)]) / 255
        for k, (name, mine) in enumerate(rows.items()):
            x, y = atlas.places[mine].T
            label = None if k else dataset.replace("$", r"\$")
            axes.scatter(x, y, 45, color=colour, marker=MARKERS[marks[name]], label=label, lw=0.4, edgecolors="0.3")
            written = {"fontsize": 5, "color": "0.35", "parse_math": False}  # a name is no formula
            axes.annotate(name, (x.mean(), y.mean()), (4, 4), textcoords="offset points", **written)
    axes.set_aspect("equal", "datalim")
    axes.set_axis_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=4, frameon=False, fontsize=9)
    sheet.savefig(path, dpi=100, metadata={"Software": None})


def _datasets(atlas: Atlas) -> list[str]:
    return list(dict.fromkeys(entry.dataset for entry in atlas.entries))


def _marks(atlas: Atlas) -> dict[str, str]:
    """Class name → marker; datasets that share a name share its marker, and markers repeat."""
    names = sorted({entry.name for entry in atlas.entries})
    return {name: list(MARKERS)[i % len(MARKERS)] for i, name in enumerate(names)}
