"""Rotations of any length: a quaternion and its multiples are the same rotation."""

from torch import Tensor

# Within these lengths, squares and their sum are far from the limits of float32.
_SHORTEST, _LONGEST = 2.0**-40, 2.0**40


def rescale_extreme(quaternions: Tensor) -> Tensor:
    """Divide quaternions [N, 4] that are too short or too long to be normalised in float32 by their largest component.

    Zeros are returned as they are, and so is everything if any value is NaN or infinite or if nothing has to change.
    """
    largest = quaternions.abs().amax(dim=1)
    is_extreme = ((largest < _SHORTEST) | (largest > _LONGEST)) & (largest > 0)
    if not bool(is_extreme.any()) or not bool(largest.isfinite().all()):
        return quaternions
    rescaled = quaternions.clone()
    rescaled[is_extreme] = (quaternions[is_extreme].double() / largest[is_extreme, None].double()).float()
    return rescaled
