"""Views as the validator's two alignment metrics feed them to CLIP."""

import torch
import torch.nn.functional as F
from torch import Tensor

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
# Quirk of the validator: mean and deviation are both three times what CLIP was trained with, so that white is negative.
_FACTOR = 3


def clip_pixels(views: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Resize and normalise pictures: [V, H, W, 3] uint8 -> [V, 3, size, size] of the dtype, in which it computes."""
    pixels = (views / 255).permute(0, 3, 1, 2).to(dtype)
    # Bicubic and, unlike the resizing that CLIP was trained with, without antialiasing.
    scaled = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
    mean, std = ((torch.tensor(v, device=views.device) * _FACTOR).to(dtype)[:, None, None] for v in (_MEAN, _STD))
    return (scaled - mean) / std
