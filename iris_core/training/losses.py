"""Dice + cross-entropy (paper, section 3.4), over binary masks."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - soft Dice, per class over the window, then the mean. logits, masks (b, K, x, y, z); scalar."""
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((2, 3, 4))
    total = probability.sum((2, 3, 4)) + masks.sum((2, 3, 4))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def segmentation_loss(logits: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice + binary cross-entropy, weight 1 each. Masks may be fractions: cut and resampled, not voted.

    valid (b, 1, x, y, z): voxels that count, or None for all.
    """
    logits = logits.float()
    if valid is not None:
        masks = masks * valid
        logits = torch.where(valid > 0.5, logits, -20.0)
    return dice_loss(logits, masks) + F.binary_cross_entropy_with_logits(logits, masks)
