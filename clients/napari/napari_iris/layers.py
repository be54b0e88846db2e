"""Layers ↔ cases. A layer's axes are taken as (z, y, x), its world as millimetres."""

import numpy as np
from napari.layers import Image, Labels

from iris_client import Case, InputError, plain_classes

PLACE = "scale", "translate", "rotate", "shear", "affine"


def query_case(image: Image) -> Case:
    """An image without labels. Raises InputError unless it is one volume."""
    if image.multiscale or image.rgb or image.ndim != 3:
        kind = "multiscale" if image.multiscale else "RGB" if image.rgb else f"{image.ndim}D"
        raise InputError(f"{image.name}: must be one 3D volume of grey values, got {kind}")
    return Case(np.asarray(image.data).transpose(), affine_of(image), name=image.name)


def reference_case(image: Image, labels: Labels) -> Case:
    """An image with its labels. Raises InputError unless they lie on one grid, and some voxel is labelled."""
    scan = query_case(image)
    values = np.asarray(labels.data).transpose()
    if values.shape != scan.image.shape or not np.allclose(affine_of(labels), scan.affine, atol=1e-3):
        raise InputError(
            f"{labels.name}: must lie on the grid of {image.name}, {image.data.shape} at {image.scale}, got"
            f" {labels.data.shape} at {labels.scale}"
        )
    if not values.any():
        raise InputError(f"{labels.name}: no voxel is labelled; draw the structure first")
    return Case(scan.image, scan.affine, values, plain_classes(values), image.name)


def affine_of(layer: Image | Labels) -> np.ndarray:
    """4×4: voxel (x, y, z) → world, in the same order of axes."""
    origin, *ends = (np.asarray(layer.data_to_world(corner)) for corner in ([0, 0, 0], *np.eye(3)))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([end - origin for end in ends], 1)[::-1, ::-1]
    affine[:3, 3] = origin[::-1]
    return affine


def result_layer(found: np.ndarray, query: Image, shown: Labels) -> Labels:
    """Labels (x, y, z) of a query as a layer at its place, in the colours of the labels that were shown."""
    place = {name: getattr(query, name) for name in PLACE}
    return Labels(found.transpose(), name=f"{query.name}: {shown.name}", colormap=shown.colormap, **place)
