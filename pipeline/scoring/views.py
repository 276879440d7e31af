"""The views of splats that a validator judges: normalised, rendered from 16 cameras and truncated as it does.

Everything here follows subnet 17's validation service 2.4.0 (404-Repo, three-gen-subnet at 5fc61f1), whose quirks are
part of the contract: they are reproduced, each with a comment.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.errors import NonFiniteOutput
from pipeline.rendering.cameras import Camera, validator_cameras
from pipeline.rendering.rasterizer import render
from pipeline.splats.splats import Splats

# The longest side of the box of the means after the validator's normalisation.
EXTENT = 1.5
# Views that are rendered, or go through a network, together; only the memory needed depends on it.
VIEW_BATCH = 4


def render_validator_views(splats: Splats) -> Tensor:
    """Render splats as a validator decodes them: [16, 518, 518, 3] uint8 on their device.

    Raises NonFiniteOutput if the splats have no finite extent. A validator scores invalid splats 0 before it renders
    them, see pipeline.splats.validation.invalid_reason.
    """
    normalised = normalise_as_validator(splats)
    cameras = validator_cameras()
    batches = [cameras[start : start + VIEW_BATCH] for start in range(0, len(cameras), VIEW_BATCH)]
    return torch.cat([render_as_validator(normalised, batch) for batch in batches])


def normalise_as_validator(splats: Splats, extent: float = EXTENT) -> Splats:
    """Normalise splats as the validator does before it renders them; `extent` is that of the longest side.

    Raises NonFiniteOutput if there are none, or if they have no finite extent.
    """
    means = splats.means
    side = float((means.amax(0) - means.amin(0)).amax()) if len(means) else 0.0
    if not 0 < side < math.inf:
        raise NonFiniteOutput(f"splats with an extent of {side} cannot be normalised")
    scale = extent / side
    # Quirk of the validator: one mean over x, y and z together, so that an object moves along the diagonal.
    moved = (means - means.mean()) * scale
    # Quirk of the validator: enlarged splats become more transparent, shrunk ones more opaque.
    opacities = (splats.opacity_logits.sigmoid() / scale).clamp(0, 1)
    return replace(
        splats,
        means=moved,
        log_scales=splats.log_scales + math.log(scale),
        opacity_logits=opacities.logit(),
        # The validator ignores higher harmonics.
        f_rest=None,
    )


def render_as_validator(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """Render normalised splats on white: [V, H, W, 3] uint8."""
    # Quirk of the validator: truncated, not rounded.
    return (render(splats, cameras) * 255).to(torch.uint8)
