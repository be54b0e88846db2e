"""What is written of one query: its mask in the format that was asked for, cleaned if that was, and probabilities."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.measure import label as connected
from tqdm import tqdm

from iris_core.case import InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.files import WriteError, write_atomically
from iris_core.geometry import extent
from iris_core.prediction import Prediction
from nnunet_adapters.headers import ending
from nnunet_adapters.images import stem, write_mask
from nnunet_adapters.masks import ENDINGS, FROM_DICOM, WRITERS, nifti
from nnunet_adapters.masks.mask import Colour, Structure

ORANGE = (230, 159, 0)
PROBABILITIES = "probabilities"  # the folder


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each query.

    format: one of WRITERS; "query" is the query's own, and of a folder of DICOM files a NIfTI with a DICOM-SEG.
    probabilities: a file for each class too. threshold: probability from which a voxel is a class's. keep_largest: of
    the pieces of a class only the largest. min_ml: pieces below that volume are left out. statistics: a table of what
    was found. colour: of the class with an index and a name.
    """

    format: str = "query"
    probabilities: bool = False
    threshold: float = 0.5
    keep_largest: bool = False
    min_ml: float = 0.0
    statistics: bool = False
    colour: Callable[[int, str], Colour] = lambda index, name: ORANGE

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold must be a probability between 0 and 1, got {self.threshold}")
        if not self.min_ml >= 0:
            raise InputError(f"--min-ml must be a volume in mL, 0 or more, got {self.min_ml}")

    def structures(self, task: TaskEmbedding) -> list[Structure]:
        named = enumerate(zip(task.values, task.names, strict=True))
        return [Structure(int(value), name, self.colour(index, name)) for index, (value, name) in named]

    def labels(self, prediction: Prediction, values: Sequence[int], voxel_ml: float) -> np.ndarray:
        """Labels (x, y, z) of a query, without the pieces that are to be left out."""
        labels = prediction.labels(self.threshold)
        if self.keep_largest or self.min_ml:
            for value in values:
                leave_out(labels, value, self.keep_largest, self.min_ml / voxel_ml)
        return labels


PLAIN = Wanted()


def leave_out(labels: np.ndarray, value: int, keep_largest: bool, least: float) -> None:
    """Set those pieces of a label to 0, in place, that have less voxels than ``least``, or are not the largest.

    Voxels that touch, if only at a corner, are one piece.
    """
    mask = labels == value
    if not mask.any():
        return
    box = tuple(slice(a, b) for a, b in zip(*extent(mask), strict=True))
    pieces = connected(mask[box], connectivity=3)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    keep = sizes >= least
    if keep_largest:
        keep &= np.arange(len(sizes)) == sizes.argmax()
    labels[box][mask[box] & ~keep[pieces]] = 0


def output_name(query: Path, format: str = "query") -> str:
    """The mask of a query is named after it; its own format is a .nii.gz for DICOM, and one file, .mha, for .mhd."""
    bare = query.resolve().name if query.is_dir() else stem(query)
    if format in FROM_DICOM and not query.is_dir():
        raise InputError(f"{query}: --format {format} is for folders of DICOM files; choose nii.gz or seg.nrrd")
    if format != "query":
        return bare + ENDINGS[format]
    if query.is_dir():
        return bare + ".nii.gz"
    return bare + (".mha" if ending(query) == ".mhd" else ending(query))


def seg_name(name: str) -> str:
    """The DICOM-SEG beside the mask of a DICOM folder, by the mask's name."""
    return name.removesuffix(".nii.gz") + ENDINGS["dicom-seg"]


def write(
    labels: np.ndarray, query: Path, output: Path, task: TaskEmbedding, wanted: Wanted, prediction: Prediction
) -> dict:
    """All files of one query. Returns what run.json says of them."""
    structures = wanted.structures(task)
    said = {}
    if wanted.format != "query":
        _write_as(wanted.format, labels, query, structures, output)
    else:
        write_mask(labels, query, output, structures)
        if query.is_dir():
            said |= _dicom_seg_beside(labels, query, structures, output)
    if wanted.probabilities:
        said["probabilities"] = _write_probabilities(prediction, query, structures, output.parent)
    return said


def _write_as(format: str, labels: np.ndarray, query: Path, structures: list[Structure], output: Path) -> None:
    """A mask in a format that may not hold it; then a former run's, which would not belong to these labels, goes."""
    try:
        WRITERS[format](labels, query, structures, output)
    except InputError:
        output.unlink(missing_ok=True)
        raise


def _dicom_seg_beside(labels: np.ndarray, query: Path, structures: list[Structure], output: Path) -> dict:
    """The DICOM-SEG beside a mask, which may fail alone."""
    seg = output.with_name(seg_name(output.name))
    try:
        _write_as("dicom-seg", labels, query, structures, seg)
        return {"dicom_seg": seg.name}
    except WriteError:
        raise
    except InputError as error:
        tqdm.write(f"iris: no {seg.name}: {error}", file=sys.stderr)
        return {"dicom_seg": None, "dicom_seg_error": str(error)}


def _write_probabilities(
    prediction: Prediction, query: Path, structures: list[Structure], folder: Path
) -> dict[str, str]:
    """A NIfTI for each class; class name → file. NIfTI has no float16: its numbers are held as float32."""
    import nibabel

    bare, files = output_name(query, "nii.gz").removesuffix(".nii.gz"), {}
    for structure, volume in zip(structures, prediction.probabilities(), strict=True):
        name = re.sub(r"[^\w-]+", "_", structure.name)[:60]
        path = folder / PROBABILITIES / f"{bare}_{structure.value}_{name}.nii.gz"
        image = nifti.image(volume.astype(np.float32), query)
        write_atomically(path, lambda temporary, image=image: nibabel.save(image, temporary))
        files[structure.name] = str(path.relative_to(folder))
    return files
