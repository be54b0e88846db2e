"""Dice + cross-entropy (paper, section 3.4), over binary masks."""

import torch
import torch.nn.functional as F
from torch import Tensor

MATCHING = 0.5


def dice_loss(probability: Tensor, masks: Tensor) -> Tensor:
    """1 - soft Dice, per class over the window, then the mean. probability, masks (b, K, x, y, z); scalar."""
    overlap = (probability * masks).sum((2, 3, 4))
    total = probability.sum((2, 3, 4)) + masks.sum((2, 3, 4))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def matching_loss(match: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice of the mask that the spatial memory propagates, times MATCHING.

    Ours: the gradient reaches the matching without a way through the head.
    match (b, K, …) at its own resolution, masks (b, K, x, y, z).
    """
    coarse = F.adaptive_avg_pool3d(masks, match.shape[2:])
    return MATCHING * dice_loss(match.float(), coarse)


def segmentation_loss(logits: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice + binary cross-entropy, weight 1 each. Masks may be fractions: cut and resampled, not voted.

    valid (b, 1, x, y, z): voxels that count, or None for all.
    """
    logits = logits.float()
    if valid is not None:
        masks = masks * valid
        logits = torch.where(valid > 0.5, logits, -20.0)
    return dice_loss(logits.sigmoid(), masks) + F.binary_cross_entropy_with_logits(logits, masks)
