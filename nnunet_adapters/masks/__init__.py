"""Masks in and results out, one file a format. A new format is one file and a line in READERS or WRITERS."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError
from nnunet_adapters.grid import check_same_grid, on_lattice, resampled
from nnunet_adapters.masks import dicom_seg, label_map, nifti, rtstruct, seg_nrrd
from nnunet_adapters.masks.dicom_files import DICOM_ENDINGS, kind_of
from nnunet_adapters.masks.mask import Mask, Structure

__all__ = ["ENDINGS", "FROM_DICOM", "READERS", "WRITERS", "format_of", "read_mask"]

READERS: dict[str, Callable[[Path, Case], Mask]] = {
    "label map": label_map.read,
    "seg.nrrd": seg_nrrd.read,
    "dicom-seg": dicom_seg.read,
    "rtstruct": rtstruct.read,
}
WRITERS: dict[str, Callable[[np.ndarray, Path, Sequence[Structure], Path], None]] = {
    "nii.gz": nifti.write,
    "seg.nrrd": seg_nrrd.write,
    "dicom-seg": dicom_seg.write,
    "rtstruct": rtstruct.write,
}
ENDINGS = {"nii.gz": ".nii.gz", "seg.nrrd": ".seg.nrrd", "dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
FROM_DICOM = ("dicom-seg", "rtstruct")  # these refer to the files of the scan


def format_of(path: Path) -> str:
    """Which of READERS takes a mask: by its ending, and of DICOM by what the file says it is."""
    if path.is_dir():
        raise InputError(f"{path}: a mask must be a file, this is a folder; name the file in it")
    if path.suffix.lower() in DICOM_ENDINGS:
        return kind_of(path)
    return "seg.nrrd" if path.name.lower().endswith(".seg.nrrd") else "label map"


def read_mask(path: Path, scan: Case, resample: bool = False) -> Mask:
    """A mask on its scan's grid. resample: interpolate one that lies on another grid, instead of refusing it.

    Raises InputError naming the file.
    """
    mask = READERS[format_of(path)](path, scan)
    shape = scan.image.shape
    part = on_lattice(mask.labels, mask.affine, shape, scan.affine) if mask.exact_part else None
    if part is not None:
        labels = part
    elif resample:
        labels = resampled(mask.labels, mask.affine, shape, scan.affine)
        if mask.labels.any() and not labels.any():
            raise InputError(f"{path}: nothing that it marks lies in {scan.name}; is it of another scan?")
    else:
        check_same_grid(path, mask.labels.shape, mask.affine, scan.name, shape, scan.affine)
        labels = mask.labels
    return Mask(labels, scan.affine, mask.names, mask.colours)
