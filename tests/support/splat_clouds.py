"""Random clouds of gaussians, from a seed."""

import math

import torch

from pipeline.splats.splats import Splats


def random_cloud(
    number: int,
    seed: int,
    *,
    scales: tuple[float, float] = (0.01, 0.2),
    opacities: tuple[float, float] = (0.05, 0.99),
    extent: float = 1.0,
) -> Splats:
    """Return gaussians in a cube around the origin, with sizes uniform in their logarithm and colours beyond 0..1."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (math.log(scale) for scale in scales)
    opacity = opacities[0] + (opacities[1] - opacities[0]) * torch.rand(number, generator=generator)
    return Splats(
        means=extent * (torch.rand(number, 3, generator=generator) - 0.5),
        quaternions=torch.randn(number, 4, generator=generator),
        log_scales=low + (high - low) * torch.rand(number, 3, generator=generator),
        opacity_logits=torch.logit(opacity),
        f_dc=2 * torch.randn(number, 3, generator=generator),
    )
