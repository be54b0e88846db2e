"""Which half of the answer found what: the images' own correspondence, or what the model learnt."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.results import Layer, Scan, index_of, mapped
from app.service import Service
from app.viewers.colours import colour
from iris_core.case import InputError
from iris_core.geometry import oriented
from nnunet_adapters.images import read_scan

SHARES = {  # which half marks a voxel as the answer does
    "both alike": (0, 158, 115),
    "registration alone": (86, 180, 233),
    "the model alone": (230, 159, 0),
    "neither alone": (204, 121, 167),
}


def explained(service: Service, scan: Scan, classes: dict[str, int]) -> Scan:
    """The scan with a layer for what each half would answer alone, and one of which half marks a voxel as the answer
    does. Raises InputError for a scan in which nothing was found."""
    if scan.task is None:
        raise InputError("Only what was found can be explained; choose a query that was segmented and not corrected")
    query, values = read_scan(scan.source), tuple(classes.values())
    legend = {name: colour(i) for i, name in enumerate(classes)}
    layers, agree = [], []
    for half, labels in service.explain(scan.task, query).items():
        index = index_of(oriented(query, labels)[0], values)
        layers.append(Layer(half, mapped(index, _file(scan, half)), legend))
        agree.append(index == scan.labels)
    if len(agree) == 2:
        registration, model = agree
        shares = np.select([registration & model, registration, model], [1, 2, 3], 4) * (np.asarray(scan.labels) > 0)
        layers.append(Layer("who found it", mapped(shares.astype(np.uint8), _file(scan, "shares")), SHARES))
    return replace(scan, layers=tuple(layers))


def _file(scan: Scan, what: str) -> Path:
    return scan.stem.with_name(f"{scan.stem.name}-{what.replace(' ', '-')}.npy")
