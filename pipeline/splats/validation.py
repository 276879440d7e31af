"""The checks that validators of subnet 17 make before they score a cloud."""

import torch
import torch.nn.functional as F

from pipeline.splats.splats import Splats
from pipeline.splats.statistics import NEARLY_TRANSPARENT

MIN_GAUSSIANS = 7000
MAX_TRANSPARENT_PERCENT = 80


def invalid_reason(splats: Splats) -> str | None:
    """Return why a validator of subnet 17 would score these splats 0 without looking at them, or None.

    Validators check the splats that they decode, so pass the splats read back from the container. Their test of free
    video memory is not repeated here.
    """
    # The rules, their order and the tolerances are the validator's, quirks included: "close" is torch.isclose
    # with its defaults, so the zeros of the identity must be met within 1e-8, and a cloud is refused when one
    # of its first three points happens to lie at (1, 1, 1).
    if len(splats) < MIN_GAUSSIANS:
        return f"{len(splats)} gaussian{'s' * (len(splats) != 1)}; the validator asks for at least {MIN_GAUSSIANS}"
    ones = torch.ones(3, device=splats.device)
    for index, point in enumerate(splats.means[:3]):
        if bool(torch.isclose(point, ones).all()):
            return f"point {index} lies at (1, 1, 1), which the validator takes for broken data"
    transparent = int((torch.sigmoid(splats.opacity_logits) < NEARLY_TRANSPARENT).sum())
    percent = 100 * transparent / len(splats)
    if percent > MAX_TRANSPARENT_PERCENT:
        return (
            f"{percent:.2f} % of the gaussians have an opacity below {NEARLY_TRANSPARENT}; "
            f"the validator allows {MAX_TRANSPARENT_PERCENT} %"
        )
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0], device=splats.device)
    if bool(torch.isclose(F.normalize(splats.quaternions, dim=1), identity).all()):
        return "all rotations are the identity, which the validator takes for an untrained cloud"
    return None
