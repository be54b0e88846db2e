"""Scans and masks as a viewer in the browser takes them: compressed NIfTI files in RAS+ order."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

from iris_core.files import write_atomically

QUICK = 1  # gzip's level: noise hardly shrinks further, whatever the time
MOST = 255  # labels of a mask in the browser


def write_volume(image: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """image: (x, y, z). Whole numbers stay as they are; others become 16 bits between their extremes, which is finer
    than a screen shows."""
    if image.dtype.kind in "iu":
        _write(nibabel.Nifti1Image(np.asarray(image), affine), path)
        return
    low, high = float(image.min()), float(image.max())
    step = (high - low) / (2**16 - 1) or 1.0
    scaled = np.round((image - low) / step - 2**15).astype(np.int16)
    volume = nibabel.Nifti1Image(scaled, affine)
    volume.header.set_slope_inter(step, low + 2**15 * step)
    _write(volume, path)


def write_labels(labels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """labels: (x, y, z), 0 is background. Beyond MOST they begin at 1 again, as the colours do."""
    if labels.max(initial=0) > MOST:
        labels = np.where(labels > 0, (labels.astype(np.int32) - 1) % MOST + 1, 0)
    _write(nibabel.Nifti1Image(labels.astype(np.uint8), affine), path)


def _write(volume: nibabel.Nifti1Image, path: Path) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(gzip.compress(volume.to_bytes(), QUICK)))
