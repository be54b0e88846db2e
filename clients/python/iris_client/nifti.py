"""Cases ↔ the NIfTI files that travel."""

from __future__ import annotations

import gzip
from xml.sax.saxutils import escape

import nibabel
import numpy as np

from iris_client.errors import InputError

TABLE = (
    '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>{}</LabelTable>'
    "<VolumeType>Label</VolumeType></VolumeInformation></CaretExtension>"
)
LABEL = '<Label Key="{}" Red="1" Green="1" Blue="1" Alpha="1">{}</Label>'


def scan_file(case) -> bytes:
    """The image of a case as .nii.gz, float32."""
    return _packed(_nifti(case, np.asarray(case.image, np.float32)))


def mask_file(case) -> bytes:
    """The labels of a case as .nii.gz, with the names of its classes in the header, where Iris finds them.

    Only values that a class has are sent. Raises InputError without labels or classes, for regions and for an ignore
    label.
    """
    if case.labels is None:
        raise InputError(f"{case.name}: a reference must have labels, got none")
    if not case.classes:
        raise InputError(
            f"{case.name}: must have classes, got none; plain_classes(labels) are those of labels not empty"
        )
    if any(getattr(c, "members", (c.value,)) != (c.value,) for c in case.classes):
        raise InputError(f"{case.name}: a class must be one label value to be sent, got regions; give plain classes")
    if getattr(case, "ignore", None) is not None:
        raise InputError(f"{case.name}: an ignore label cannot be sent, got {case.ignore}; make it background, 0")
    values = [c.value for c in case.classes]
    labels = np.asarray(case.labels)
    if not np.array_equal(labels, np.rint(labels)):
        raise InputError(f"{case.name}: labels must be whole numbers, got fractions or NaN; is it a probability map?")
    shown = np.where(np.isin(labels, values), labels, 0)
    if min(values) < -(2**31) or max(values) >= 2**31:
        raise InputError(f"{case.name}: label values must fit into 32 bits, got {values}")
    nifti = _nifti(case, shown.astype(np.int32))
    table = TABLE.format("".join(LABEL.format(c.value, escape(c.name)) for c in case.classes))
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    return _packed(nifti)


def labels_of(file: bytes) -> np.ndarray:
    """Voxels (x, y, z) of a mask, .nii.gz."""
    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(file)).dataobj)


def _nifti(case, voxels: np.ndarray) -> nibabel.Nifti1Image:
    affine = np.asarray(case.affine, float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        raise InputError(f"{case.name}: the affine must be a 4×4 matrix with axes that are independent, got\n{affine}")
    return nibabel.Nifti1Image(voxels, affine)


def _packed(nifti: nibabel.Nifti1Image) -> bytes:
    return gzip.compress(nifti.to_bytes(), compresslevel=1)
