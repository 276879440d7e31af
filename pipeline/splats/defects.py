"""Values that are no numbers, and gaussians that cannot be drawn because of them."""

import torch
from torch import Tensor

from pipeline.splats.splats import Splats


def count_non_finite(splats: Splats) -> dict[str, tuple[int, int]]:
    """Return how many values are NaN and how many infinite, of each attribute that holds any."""
    counts = {name: (int(x.isnan().sum()), int(x.isinf().sum())) for name, x in splats.tensors().items()}
    return {name: count for name, count in counts.items() if any(count)}


def count_zero_rotations(splats: Splats) -> int:
    """Return the number of quaternions that are zero, which is no rotation."""
    return int((splats.quaternions == 0).all(dim=1).sum())


def drop_invalid(splats: Splats) -> tuple[Splats, int]:
    """Drop gaussians that cannot be drawn; also return how many were dropped.

    Those hold a NaN, an infinity where it has no meaning, or a rotation of zero. Infinite logits are opacities of 0 and
    1, and a logarithm of minus infinity is a size of 0.
    """
    keep = (splats.quaternions != 0).any(dim=1)
    for name, tensor in splats.tensors().items():
        keep &= _is_valid(name, tensor).reshape(len(splats), tensor[:1].numel()).all(dim=1)
    dropped = len(splats) - int(keep.sum())
    if not dropped:
        return splats, 0
    return Splats(**{name: tensor[keep] for name, tensor in splats.tensors().items()}), dropped


def _is_valid(name: str, tensor: Tensor) -> Tensor:
    if name == "opacity_logits":
        return ~tensor.isnan()
    if name == "log_scales":
        return tensor < torch.inf
    return tensor.isfinite()
