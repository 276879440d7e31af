"""The validator's formula for the score of a result."""

import torch
from torch import Tensor

# Below this alignment a result is worth nothing, whatever its quality.
MIN_ALIGNMENT = 0.3


def final_score(quality: float, alignment: float, ssim: float, lpips: float) -> float:
    """Return 0 if alignment < 0.3, else 0.75 quality + 0.2 alignment + 0.025 (s(ssim) + lpips s(lpips)).

    s(ssim) = sigmoid(35 (ssim - 0.83)), s(lpips) = sigmoid(30 (lpips - 0.7)). The result is not limited to 0..1: an
    alignment above 1 can lift it above 1. NaN in any argument makes it NaN, unless the alignment is below 0.3.
    """
    if alignment < MIN_ALIGNMENT:
        return 0.0
    # Quirk of the validator: its sigmoids are tensors in float32, and so is all that they are added to.
    score = 0.75 * quality + 0.2 * alignment + 0.025 * _sigmoid(35 * (ssim - 0.83))
    return float(score + 0.025 * lpips * _sigmoid(30 * (lpips - 0.7)))


def _sigmoid(logit: float) -> Tensor:
    return torch.tensor(logit, dtype=torch.float32).sigmoid()
