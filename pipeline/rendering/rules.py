"""What every rasterizer here has in common: gsplat's constants, and where gaussians are."""

import math

from torch import Tensor

SH_C0 = 0.28209479177387814
LOW_PASS = 0.3
# A gaussian contributes to a pixel exactly where its alpha is above this.
MIN_ALPHA = 1 / 255
LOG_MIN_ALPHA = math.log(MIN_ALPHA)
MAX_ALPHA = 0.999
# The gaussian that would lower the transmittance to this or below is left out, and so are all behind it.
MIN_TRANSMITTANCE = 1e-4
# Beyond 1.3 times the field of view the derivatives of the projection are those at that limit.
JACOBIAN_MARGIN = 0.3
# Pixels by which the box around a gaussian is widened: rounding must not lose a pixel, while an extra one is harmless.
REACH_FACTOR, REACH_MARGIN = 1.001, 1e-3


def camera_coordinate(means: Tensor, world_to_camera: Tensor, axis: int) -> Tensor:
    """Return x, y or depth (axis 0, 1, 2) of means [N, 3] as cameras [..., 3 or 4, 4] see them: [..., N], world units.

    Gaussians often overlap at depths that differ in the last bit, and alpha falls to 1/255 within a hundredth of a
    pixel. So this is computed term by term: all rasterizers on all devices get the same bits, and so the same order.
    """
    row = world_to_camera[..., axis, :, None]
    x, y, z = means.unbind(-1)
    return x * row[..., 0, :] + y * row[..., 1, :] + z * row[..., 2, :] + row[..., 3, :]
