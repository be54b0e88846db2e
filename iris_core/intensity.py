"""Intensity normalisation by modality (paper, supplement: preprocessing)."""

import numpy as np

from iris_core.case import InputError

SCHEMES = ("ct", "percentile", "none")


def detect_scheme(image: np.ndarray) -> str:
    """'ct' if the values can only be Hounsfield units (fat and air lie below -100), else 'percentile'."""
    return "ct" if np.percentile(image, 0.5) <= -100 else "percentile"


def normalise(image: np.ndarray, scheme: str) -> np.ndarray:
    """Clip, then z-score over the volume.

    ct: clip to [-990, 500] HU. percentile (MR, PET, anything else): clip to the 2nd and 98th percentile. none: the
    image is normalised already, as in a training cache.
    A constant image becomes zeros. Returns float32 of the same shape.
    """
    if scheme == "none":
        return image
    if scheme == "ct":
        low, high = -990.0, 500.0
    elif scheme == "percentile":
        low, high = map(float, np.percentile(image, (2, 98)))
        if low == high:  # a small bright structure in an empty field: keep it
            low, high = float(image.min()), float(image.max())
    else:
        raise InputError(f"intensity scheme must be one of {SCHEMES}, got {scheme!r}")
    clipped = np.clip(image, low, high, dtype=np.float32)
    return (clipped - clipped.mean()) / max(float(clipped.std()), 1e-6)
