"""Augmentation of real data with batchgenerators (paper, supplement: augmentation)."""

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    BrightnessTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import SpatialTransform

ROTATION = 10 / 180 * np.pi
SCALE = (0.9, 1.1)
SPATIAL_PROBABILITY = 0.5  # ours: the costliest step on a CPU; crops, flips and spacing vary in every episode


def intensity_transform(strength: float) -> AbstractTransform:
    """The paper's intensity ranges, widened by ``strength`` (1 is the paper; more perturbs a query or reference)."""
    spread = 0.1 * strength
    return Compose(
        [
            BrightnessMultiplicativeTransform((1 - spread, 1 + spread), p_per_sample=0.5),
            BrightnessTransform(0, 0.1 * strength, p_per_sample=0.5),
            ContrastAugmentationTransform((1 - 2 * spread, 1 + 2 * spread), p_per_sample=0.5),
            GammaTransform((1 - 2 * spread, 1 + 2 * spread), retain_stats=True, p_per_sample=0.5),
            GaussianBlurTransform((0.7, 1.3), p_per_sample=0.15 * strength),
            GaussianNoiseTransform((0, 0.02 * strength), p_per_sample=0.3),
            SimulateLowResolutionTransform((0.5, 1), p_per_sample=0.1 * strength, order_upsample=1),
        ]
    )


REFERENCE_INTENSITY = intensity_transform(1.0)
QUERY_INTENSITY = intensity_transform(2.0)  # paper: the query is perturbed, to imitate imperfect references


def augment(image: np.ndarray, masks: np.ndarray, query: bool) -> tuple[np.ndarray, np.ndarray]:
    """image (x, y, z) and masks (K, x, y, z) in [0, 1], augmented. Uses numpy's global random state.

    Masks travel as image channels through the spatial transform, so that they are interpolated, not voted.
    """
    if np.random.uniform() < SPATIAL_PROBABILITY:
        spatial = SpatialTransform(
            image.shape,
            patch_center_dist_from_border=None,
            do_elastic_deform=False,
            angle_x=(-ROTATION, ROTATION),
            angle_y=(-ROTATION, ROTATION),
            angle_z=(-ROTATION, ROTATION),
            scale=SCALE,
            border_mode_data="constant",
            order_data=1,
            random_crop=False,
        )
        moved = spatial(data=np.concatenate([image[None], masks])[None])["data"][0]
        if (moved[1:].sum((1, 2, 3)) > 0).all() or query:  # the reference keeps its annotated region
            image, masks = moved[0], moved[1:]
    transform = QUERY_INTENSITY if query else REFERENCE_INTENSITY
    return transform(data=image[None, None].astype(np.float32))["data"][0, 0], masks.astype(np.float32)
