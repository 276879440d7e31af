"""Splats: a cloud of 3D gaussians as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Splats:
    """N gaussians, float32, all on one device; values are those a PLY file holds (before activation).

    means:          [N, 3] positions; right-handed, +y up, the object inside the unit cube around the origin.
    quaternions:    [N, 4] rotations, w first; not necessarily of unit length.
    log_scales:     [N, 3] natural logarithm of the standard deviation along each axis.
    opacity_logits: [N] logit of the opacity.
    f_dc:           [N, 3] zeroth spherical-harmonic coefficient; rgb = 0.5 + 0.28209479177387814 * f_dc.
    f_rest:         [N, 3, D] higher coefficients per colour channel, D = 0, 3, 8 or 15 (degree 0..3).

    Raises ValueError on a wrong shape, dtype or mixed devices.
    """

    means: Tensor
    quaternions: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    f_dc: Tensor
    f_rest: Tensor | None = None
