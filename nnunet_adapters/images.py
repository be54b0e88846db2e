"""Image files ↔ cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iris_core.case import Case, InputError, plain_classes
from iris_core.files import write_atomically
from nnunet_adapters.headers import NIFTI, ending, itk_affine
from nnunet_adapters.masks import nifti, read_mask
from nnunet_adapters.masks.mask import Structure, smallest
from nnunet_adapters.voxels import itk_fields, read_voxels


def stem(path: Path) -> str:
    """A scan's name without its ending."""
    return path.name if path.is_dir() else path.name[: -len(ending(path))]


def ras_affine(properties: dict[str, Any]) -> np.ndarray:
    """Voxel (x, y, z) → RAS+ mm from the properties that nnunetv2's readers return."""
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        return itk_affine(stuff["direction"], stuff["spacing"], stuff["origin"])
    return np.diag([*properties["spacing"][::-1], 1.0])


def read_scan(path: Path | str) -> Case:
    """Read an image without labels: a file, or a folder of DICOM files. Raises InputError naming the file."""
    path = Path(path)
    image, affine = read_voxels(path)
    return Case(image.astype(np.float32), affine, name=str(path))


def read_reference(
    path: Path | str, mask_path: Path | str, names: dict[int, str] | None = None, resample: bool = False
) -> Case:
    """Read an image with its mask, of any format in masks/: on the image's grid, not empty.

    names: value → name; they go before those in the mask's file. resample: bring a mask of another grid to the image's,
    instead of refusing it.
    """
    scan = read_scan(path)
    mask = read_mask(Path(mask_path), scan, resample)
    if not mask.labels.any():
        raise InputError(f"{mask_path}: the mask must mark at least one voxel, it is empty")
    classes = plain_classes(mask.labels, mask.names | (names or {}))
    colours = {c.name: mask.colours[c.value] for c in classes if c.value in mask.colours}
    return Case(scan.image, scan.affine, mask.labels, classes, name=str(path), colours=colours)


def write_mask(labels: np.ndarray, like: Path | str, output: Path | str, structures: Sequence[Structure] = ()) -> None:
    """Write labels (x, y, z) in the file order of the scan ``like``, with its affine and header, atomically.

    structures: their names and colours go into a NIfTI; a plain NRRD or MetaImage has no place for them.
    Raises InputError where the output's ending is of no format that is written.
    """
    like, output = Path(like), Path(output)
    if ending(output) == ".mhd":
        raise InputError(f"{output}: a mask is written as one file, of a .mhd there are two; choose .mha")
    if output.name.lower().endswith(NIFTI):
        nifti.write(labels, like, structures, output)
        return
    import SimpleITK as sitk

    mask = sitk.GetImageFromArray(smallest(labels).transpose(2, 1, 0))
    scan = sitk.ReadImage(str(like))
    mask.CopyInformation(scan)
    for key, value in itk_fields(scan).items():
        if value and not key.startswith("ITK_"):
            mask.SetMetaData(key, value)
    write_atomically(output, lambda temporary: sitk.WriteImage(mask, str(temporary), True))
