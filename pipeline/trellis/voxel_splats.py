"""A structure as splats, so that it can be drawn as its object is."""

import torch
from torch import Tensor

from pipeline.rendering.rules import SH_C0
from pipeline.splats.splats import Splats, flip_up_axis
from pipeline.trellis.gaussians import activated_to_splats

# The side of the grid of all published checkpoints.
RESOLUTION = 64
# Standard deviation in voxels, and opacity: neighbours touch, and what is behind does not shine through.
_RADIUS, _OPACITY = 0.35, 0.98


def voxel_splats(positions: Tensor) -> Splats:
    """Return a ball for each voxel [N, 3] of a grid of side 64, with +y up; red, green and blue tell its place."""
    places = (positions.float() + 0.5) / RESOLUTION
    rows = len(places)
    rotations = places.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(rows, 4)
    radii = torch.full_like(places, _RADIUS / RESOLUTION)
    span = (places.amax(0) - places.amin(0)).clamp(min=1 / RESOLUTION) if rows else places.new_ones(3)
    colours = 0.15 + 0.75 * (places - places.amin(0)) / span if rows else places
    opacities = places.new_full((rows,), _OPACITY)
    return flip_up_axis(activated_to_splats(places - 0.5, rotations, radii, opacities, (colours - 0.5) / SH_C0))
