"""Masks as surfaces in 3D."""

from html import escape

import numpy as np
import plotly.graph_objects as go
from scipy.ndimage import find_objects, gaussian_filter
from skimage.measure import marching_cubes
from skimage.transform import downscale_local_mean

from app.viewers.colours import css
from app.viewers.slices import grey

MAX_FACES_CLASS = 50_000  # what a browser without a graphics card still turns fluently
MAX_FACES = 100_000
PAD = 3  # samples around a mask
SMOOTH = 0.7  # samples, of the Gaussian that takes the steps off a surface; radius 2
PLANE_SAMPLES = 160  # along an edge of a slice plane
CLEAR = "rgba(0,0,0,0)"
FONT = {"color": "#808690", "family": "system-ui, sans-serif"}  # readable on a light and on a dark page


def mesh(
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    names: tuple[str, ...],
    hidden: tuple[int, ...] = (),
    planes: tuple[go.Surface, ...] = (),
) -> go.Figure:
    """One named surface a class that occurs; a click on its name in the legend hides it.

    labels: (x, y, z) integers in RAS+ order, 0 is background, i the i-th of ``names``. spacing_mm: along x, y, z.
    hidden: labels whose surface begins hidden. planes: from slice_planes(), drawn with the surfaces.
    Coordinates are mm from the first voxel; the first view is from the front, the patient's right at the left.
    """
    limit = min(MAX_FACES_CLASS, MAX_FACES // max(1, len(names)))
    figure = go.Figure()
    for index, box in enumerate(find_objects(labels, len(names))):
        if box is None:
            continue
        vertices, faces = surface(labels[box] == index + 1, spacing_mm, limit)
        vertices += [part.start * step for part, step in zip(box, spacing_mm, strict=True)]
        x, y, z = vertices.astype(np.float32).T
        i, j, k = faces.astype(np.int32).T
        figure.add_trace(
            go.Mesh3d(
                x=x, y=y, z=z, i=i, j=j, k=k,
                color=css(index),
                name=escape(names[index]),
                showlegend=True,
                visible="legendonly" if index + 1 in hidden else True,
                hoverinfo="skip",
                lighting={"ambient": 0.6, "diffuse": 0.6, "specular": 0.1, "roughness": 0.7},
            )
        )  # fmt: skip
    figure.add_traces(planes)
    if not figure.data:
        return figure.update_layout(
            annotations=[{"text": "no structure in this scan", "showarrow": False}],
            xaxis={"visible": False},
            yaxis={"visible": False},
            plot_bgcolor=CLEAR,
            paper_bgcolor=CLEAR,
            font=FONT,
        )
    figure.add_trace(_letters(figure.data))
    figure.update_layout(
        scene={
            "aspectmode": "data",
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "zaxis": {"visible": False},
            "camera": {"eye": {"x": 0.6, "y": 1.5, "z": 0.6}},
        },
        legend={"itemsizing": "constant", "x": 1, "xanchor": "right", "y": 0.92, "bgcolor": CLEAR},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor=CLEAR,
        font=FONT,
        height=460,
        uirevision="kept",  # the camera stays when planes move
    )
    return figure


def _letters(surfaces: tuple[go.Mesh3d, ...]) -> go.Scatter3d:
    """R, L, A, P, S, I around all surfaces."""
    low, high = (
        np.array([reach(reach(np.ravel(getattr(part, axis))) for part in surfaces) for axis in "xyz"])
        for reach in (min, max)
    )
    middle, half = (low + high) / 2, (high - low) / 2 + 0.1 * (high - low).max()
    x, y, z = np.repeat(middle[:, None], 6, 1) + half[:, None] * np.repeat(np.eye(3), 2, 1) * [1, -1, 1, -1, 1, -1]
    return go.Scatter3d(x=x, y=y, z=z, text=list("RLAPSI"), mode="text", hoverinfo="skip", showlegend=False)


def slice_planes(
    volume: np.ndarray,
    spacing_mm: tuple[float, float, float],
    position: tuple[int, int, int],
    window: tuple[float, float],
) -> tuple[go.Surface, ...]:
    """The three slices through ``position`` as grey planes in space, coarse enough to turn fluently."""
    found = []
    for axis in range(3):
        step = [max(1, -(-n // PLANE_SAMPLES)) for n in volume.shape]
        cut = [slice(None, None, s) for s in step]
        cut[axis] = slice(position[axis], position[axis] + 1)
        places = [np.arange(n)[c] * mm for n, c, mm in zip(volume.shape, cut, spacing_mm, strict=True)]
        x, y, z = (place.squeeze(axis).astype(np.float32) for place in np.meshgrid(*places, indexing="ij"))
        shade = grey(volume[tuple(cut)].squeeze(axis).astype(np.float32), window)
        found.append(
            go.Surface(
                x=x, y=y, z=z, surfacecolor=shade,
                cmin=0, cmax=255, colorscale="gray", showscale=False, hoverinfo="skip", opacity=0.9,
                lighting={"ambient": 1, "diffuse": 0, "specular": 0},
            )
        )  # fmt: skip
    return tuple(found)


def surface(mask: np.ndarray, spacing_mm: tuple[float, ...], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) in mm from the mask's first voxel and faces (m, 3), at most ``limit``, of a non-empty mask.

    The mask is averaged over ever larger blocks until its surface is small enough; one voxel is enough to draw.
    A ball of n voxels across has about 4.5 n² faces, so a grid of three times that n is fine enough to begin with.
    """
    spacing = np.asarray(spacing_mm, float)
    most_samples = 27 * (limit / 4.5) ** 1.5
    edge_mm = max(spacing.min(), (mask.size * spacing.prod() / most_samples) ** (1 / 3))
    while True:
        blocks = np.maximum(1, np.round(edge_mm / spacing)).astype(int)
        share = gaussian_filter(np.pad(downscale_local_mean(mask, tuple(blocks)), PAD), SMOOTH, radius=2)
        vertices, faces, _, _ = marching_cubes(share, min(0.5, share.max() / 2), spacing=tuple(blocks * spacing))
        if len(faces) <= limit:
            return vertices + ((blocks - 1) / 2 - PAD * blocks) * spacing, faces
        edge_mm *= max(1.2, (len(faces) / limit) ** 0.5)
