"""What a person should know before they press the button: does it fit together, and how long will it take?

Sentences for clinicians. Nothing here stops anything: each says what was found and what to do about it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.service import Service
from iris_core.case import Case, LabelClass
from iris_core.embeddings import TaskEmbedding
from iris_core.geometry import extent, oriented
from iris_core.intensity import detect_scheme

SPACING_RATIO = 3.0
SMALLER = 0.75  # of the structure's extent: patients differ
LARGER = 4.0  # × the reference's field of view
FEW_VOXELS = 50
DIRECTIONS = ("from left to right", "from back to front", "from feet to head")
ENDS = (("left", "right"), ("back", "front"), ("lower", "upper"))


@dataclass(frozen=True)
class Forecast:
    """seconds, gib: of segmenting one query, beside the model. slowest: seconds if the structures are hard to find."""

    seconds: float
    gib: float
    slowest: float = 0.0


def forecast(service: Service, embedding: TaskEmbedding, query: Case) -> Forecast:
    """Time and memory for one query, without its confidence: the windows it needs × what one takes on this machine.

    The first call for a number of classes and a size of window measures, which takes about as long as one window.
    Raises InputError if the query is too large for the task.
    """
    return Forecast(*service.forecast(embedding, query))


def check(references: list[Case], query: Case) -> list[str]:
    """What may go wrong, a sentence each; empty if all is well.

    references: with labels and classes. Names in the sentences are the files', without their folders.
    """
    found = list(_disagreements(references))
    found += _orientation([*references, query])
    for reference in references:
        found += _mask(reference)
        found += _kind(reference, query)
        found += _sizes(reference, query)
        found += _handedness(reference, query)
    return list(dict.fromkeys(found))


def _called(case: Case) -> str:
    return Path(case.name).name


def _names(classes: list[LabelClass]) -> str:
    return ", ".join(c.name for c in classes)


def _disagreements(references: list[Case]) -> Iterator[str]:
    """References that give one name several values or one value several names, and classes that none shows."""
    first_value: dict[str, tuple[int, Case]] = {}
    first_name: dict[int, tuple[str, Case]] = {}
    for case in references:
        for c in case.classes:
            value, other = first_value.setdefault(c.name, (c.value, case))
            if value != c.value:
                yield (
                    f"The references disagree: {c.name} is number {value} in the mask of {_called(other)} but number"
                    f" {c.value} in that of {_called(case)}. Give it the same number in both masks."
                )
            name, other = first_name.setdefault(c.value, (c.name, case))
            if name != c.name:
                yield (
                    f"The references disagree: number {c.value} in the mask is called {name} in {_called(other)} but"
                    f" {c.name} in {_called(case)}. Use one name for it."
                )
    shown = {c.name for case in references for c in case.present()}
    if missing := [name for name in first_value if name not in shown]:
        yield (
            f"No reference shows {', '.join(missing)}, so it cannot be found. Outline it in a reference, or remove the"
            " name."
        )
    kinds = {detect_scheme(case.image): case for case in references}
    if len(kinds) > 1:
        yield (
            f"The references are of different kinds: {_called(kinds['ct'])} looks like a CT scan,"
            f" {_called(kinds['percentile'])} does not. Use references of one kind."
        )


def _kind(reference: Case, query: Case) -> Iterator[str]:
    ct = [detect_scheme(case.image) == "ct" for case in (reference, query)]
    if ct[0] != ct[1]:
        one, other = (reference, query) if ct[0] else (query, reference)
        yield (
            f"{_called(one)} looks like a CT scan but {_called(other)} does not: in CT, air and fat have values below"
            " -100. Show a reference of the same kind of scan; if both are CT, export the scan again with its original"
            " values."
        )


def _sizes(reference: Case, query: Case) -> Iterator[str]:
    """Voxel sizes and fields of view along the patient's axes."""
    image, voxel = oriented(reference, reference.image)
    other, query_voxel = oriented(query, query.image)
    for where, mine, theirs in zip(DIRECTIONS, voxel, query_voxel, strict=True):
        if max(mine, theirs) > SPACING_RATIO * min(mine, theirs):
            yield (
                f"Seen {where}, {_called(reference)} has a sample every {mine:.1f} mm and {_called(query)} one every"
                f" {theirs:.1f} mm. Small structures may be missed; use scans with a similar slice distance."
            )
    view, query_view = np.multiply(image.shape, voxel), np.multiply(other.shape, query_voxel)
    small = None
    if reference.labels is not None and reference.present():
        first, last = extent(_shown(reference))
        small = (last - first) * voxel
    for axis, where in enumerate(DIRECTIONS):
        if small is not None and query_view[axis] < SMALLER * small[axis]:
            yield (
                f"Seen {where}, {_called(query)} covers {query_view[axis]:.0f} mm, but what is outlined in"
                f" {_called(reference)} is {small[axis]:.0f} mm long. Parts of it cannot be in the scan; use a scan"
                " that covers all of it."
            )
        if query_view[axis] > LARGER * view[axis]:
            yield (
                f"Seen {where}, {_called(query)} covers {query_view[axis]:.0f} mm and {_called(reference)} only"
                f" {view[axis]:.0f} mm. Things that the reference never showed may be mistaken for the structure; crop"
                " the scan around it, or show a reference that covers as much."
            )


def _orientation(cases: list[Case]) -> Iterator[str]:
    """Headers that hold no more than what programs fill in where the orientation is unknown."""
    vague = []
    for case in cases:
        matrix, origin = case.affine[:3, :3], case.affine[:3, 3]
        plain = np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-6)
        centre = np.abs(matrix @ (np.array(case.image.shape) - 1) / 2 + origin)
        if plain and (not origin.any() or (centre < 1e-3 * case.spacing_mm).all()):
            vague.append(_called(case))
    if vague:
        yield (
            f"The file does not seem to say how the patient lay in the scanner: {', '.join(dict.fromkeys(vague))}. Left"
            " and right may be swapped: look at the letters in the pictures, and export the scan again from DICOM if"
            " they are wrong."
        )


def _handedness(reference: Case, query: Case) -> Iterator[str]:
    if np.linalg.det(reference.affine[:3, :3]) * np.linalg.det(query.affine[:3, :3]) < 0:
        yield (
            f"{_called(reference)} and {_called(query)} are stored as mirror images of each other. That is right if"
            " both headers are; look at the letters R and L in the pictures, above all if you outline one side only."
        )


def _shown(case: Case) -> np.ndarray:
    """Where a case shows any class, in RAS+ order."""
    labels, _ = oriented(case, case.labels)
    return np.any([c.mask(labels) for c in case.present()], 0)


def _mask(reference: Case) -> Iterator[str]:
    """An empty mask, classes of few voxels or one slice, and those that the scan's border cuts."""
    name = _called(reference)
    if reference.labels is None or not reference.present():
        yield f"The mask of {name} is empty. Outline at least one structure in it."
        return
    labels, _ = oriented(reference, reference.labels)
    size = np.array(labels.shape)
    tiny, thin, cut = [], [], {}
    for c in reference.present():
        mask = c.mask(labels)
        first, last = extent(mask)
        if np.count_nonzero(mask) < FEW_VOXELS:
            tiny.append(c)
        elif ((last - first < 2) & (size > 1)).any():
            thin.append(c)
        for axis in np.flatnonzero(size > 1):
            for end, touches in zip(ENDS[axis], (first[axis] == 0, last[axis] == size[axis]), strict=True):
                if touches:
                    cut.setdefault(end, []).append(c)
    if tiny:
        yield (
            f"In {name}, fewer than {FEW_VOXELS} points are outlined of: {_names(tiny)}. That is too little to learn"
            " from; outline the whole structure, in every slice that shows it."
        )
    if thin:
        yield (
            f"In {name}, only one slice is outlined of: {_names(thin)}. Outline the whole structure, in every slice"
            " that shows it."
        )
    if cut:
        names = dict.fromkeys(c.name for touching in cut.values() for c in touching)
        yield (
            f"In {name}, the scan's border ({', '.join(cut)}) cuts off: {', '.join(names)}. Show a reference that holds"
            " the whole structure, or expect the same end to be missing in the results."
        )
