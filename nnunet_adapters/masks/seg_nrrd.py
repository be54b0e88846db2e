"""3D Slicer's segmentations, .seg.nrrd: labels in one or several layers; names and colours as fields of the header.

https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html#segmentations-file-format-seg-nrrd
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError
from iris_core.files import write_atomically
from iris_core.geometry import extent
from nnunet_adapters.headers import check_header, itk_affine
from nnunet_adapters.masks.mask import Mask, Structure, check_names, found, refuse_overlap, smallest
from nnunet_adapters.voxels import grid_of, itk_fields, itk_image, read_itk

MAX_LAYERS = 256
MAX_VALUE = 2**16 - 1  # of a label; Slicer counts them from 1
SEGMENT = re.compile(r"Segment(\d{1,5})_ID")


@dataclass(frozen=True)
class Segment:
    """What the header says of one: its value in its layer, its name, its colour or None."""

    layer: int
    value: int
    name: str
    colour: tuple[int, int, int] | None


def read(path: Path, scan: Case) -> Mask:
    """Label values are the file's, or, where segments lie in several layers, 1, 2, … in their order."""
    check_header(path, MAX_LAYERS)
    image = read_itk(path)
    segments = _segments(path, image)
    import SimpleITK as sitk

    layers = sitk.GetArrayFromImage(image)
    layers = layers[..., None] if layers.ndim == 3 else layers
    if layers.dtype.kind not in "iu":
        raise InputError(f"{path}: segments must be whole numbers, got {layers.dtype}; export a binary labelmap")
    one_layer = layers.shape[-1] == 1
    values = [s.value for s in segments] if one_layer else range(1, len(segments) + 1)
    named = dict(zip(values, segments, strict=True))
    if len(named) != len(segments):
        raise InputError(f"{path}: every segment must have a label value of its own, got {list(values)[:20]}")
    labels = layers[..., 0] if one_layer else _joined(path, layers, segments)
    if one_layer and (strange := np.setdiff1d(labels, [0, *values])).size:
        raise InputError(f"{path}: every label must be a segment's, found {strange[:5].tolist()}; save it from Slicer")
    affine = itk_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())
    names = check_names(path, {value: s.name for value, s in named.items()})
    colours = {value: s.colour for value, s in named.items() if s.colour}
    return Mask(labels.transpose(2, 1, 0).astype(np.int32), affine, names, colours, exact_part=True)


def _segments(path: Path, image) -> list[Segment]:
    """The segments that the header describes. Before Slicer 4.11 each had a layer of its own, with the value 1."""
    fields = {key: value for key, value in itk_fields(image).items() if key.startswith("Segment")}
    numbers = sorted(int(match[1]) for match in map(SEGMENT.fullmatch, fields) if match)
    if not numbers:
        raise InputError(f"{path}: must name its segments (Segment0_ID …), found none; a plain mask ends in .nrrd")
    segments = []
    for number in numbers:
        about = f"Segment{number}_"
        try:
            layer, value = int(fields.get(about + "Layer", number)), int(fields.get(about + "LabelValue", 1))
            share = [float(v) for v in fields.get(about + "Color", "").split()]
            colour = tuple(round(255 * min(max(v, 0.0), 1.0)) for v in share) if len(share) == 3 else None
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}: the segment {about}… is damaged ({error}); save it again") from error
        if not 0 < value <= MAX_VALUE or not 0 <= layer < image.GetNumberOfComponentsPerPixel():
            raise InputError(f"{path}: {about}… must lie in a layer of the file, got layer {layer}, value {value}")
        segments.append(Segment(layer, value, fields.get(about + "Name", fields[about + "ID"]).strip(), colour))
    return segments


def _joined(path: Path, layers: np.ndarray, segments: list[Segment]) -> np.ndarray:
    """Layers (z, y, x, layer) as one label map: 1, 2, … in the order of the segments. Raises where two overlap."""
    joined = np.zeros(layers.shape[:3], np.uint16)
    for layer in range(layers.shape[-1]):
        numbers = np.zeros(MAX_VALUE + 2, np.uint16)
        for number, segment in enumerate(segments, 1):
            if segment.layer == layer:
                numbers[segment.value] = number
        values = layers[..., layer]
        marked = numbers[np.where((values >= 0) & (values <= MAX_VALUE), values, MAX_VALUE + 1)]
        both = (marked > 0) & (joined > 0)
        if both.any():
            first = tuple(np.argwhere(both)[0])
            pair = (joined[first], marked[first])
            shared = both & (joined == pair[0]) & (marked == pair[1])
            refuse_overlap(path, *(segments[i - 1].name for i in pair), int(shared.sum()))
        joined += marked
    return joined


def write(labels: np.ndarray, like: Path, structures: Sequence[Structure], output: Path) -> None:
    """Write labels (x, y, z) on the grid of the scan ``like``, one layer, a segment a structure; atomically."""
    import SimpleITK as sitk

    image = itk_image(smallest(labels), grid_of(like)[1])
    there = {s.value for s in found(labels, structures)}
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, structure in enumerate(structures):
        low, high = extent(labels == structure.value) if structure.value in there else ((0, 0, 0), (0, 0, 0))
        about = f"Segment{number}_"
        fields |= {
            about + "ID": f"Segment_{number + 1}",
            about + "Name": " ".join(structure.name.split()),
            about + "NameAutoGenerated": "0",
            about + "Color": " ".join(f"{c / 255:.6f}" for c in structure.colour),
            about + "ColorAutoGenerated": "0",
            about + "Extent": " ".join(f"{a} {b - 1}" for a, b in zip(low, high, strict=True)),
            about + "LabelValue": str(structure.value),
            about + "Layer": "0",
            about + "Tags": "",
        }
    for key, value in fields.items():
        image.SetMetaData(key, value)
    write_atomically(output, lambda temporary: sitk.WriteImage(image, str(temporary), True))
