"""Label maps (NIfTI, NRRD, MHA, MHD): a whole number a voxel, on the scan's own grid."""

from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError
from nnunet_adapters.headers import NIFTI
from nnunet_adapters.masks.beside import beside
from nnunet_adapters.masks.mask import Mask
from nnunet_adapters.masks.nifti import inside
from nnunet_adapters.voxels import read_voxels

MAX_VALUE = 2**31 - 1


def read(path: Path, scan: Case) -> Mask:
    """Names and colours are the file's own, else those of a file beside it."""
    voxels, affine = read_voxels(path)
    if not np.isfinite(voxels).all() or (voxels != np.round(voxels)).any() or np.abs(voxels).max() > MAX_VALUE:
        raise InputError(f"{path}: a mask must hold whole numbers (labels), found others; is it an image?")
    names, colours = inside(path) if path.name.lower().endswith(NIFTI) else ({}, {})
    if not names:
        names, colours = beside(path)
    return Mask(voxels.astype(np.int32), affine, names, colours)
