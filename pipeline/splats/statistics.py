"""Statistics of a cloud of gaussians."""

import math
from dataclasses import dataclass

import torch

from pipeline.splats.splats import Splats

NEARLY_TRANSPARENT = 1e-3
DENSITY_GRID = 64


@dataclass(frozen=True)
class Statistics:
    """Statistics of a cloud; lengths are in the unit of the means.

    Non-finite values are excluded from all statistics except `count` and the opacities, where an infinite logit is an
    opacity of 0 or 1. Statistics of no gaussians at all are NaN, densities 0.
    """

    count: int
    opacity_min: float
    opacity_mean: float
    opacity_max: float
    transparent_share: float
    """Share of gaussians with an opacity below 1e-3."""
    box_min: tuple[float, float, float]
    box_max: tuple[float, float, float]
    volume: float
    """Volume of the axis-aligned box around the means."""
    density_max: int
    """Most means in one voxel of a 64^3 grid over the cube from -0.5 to 0.5; means outside do not count."""
    density_mean: float
    """Means per occupied voxel of the same grid."""
    scale_p5: float
    """Percentiles of the standard deviations (not their logarithms), all three axes together."""
    scale_p50: float
    scale_p95: float


def compute_statistics(splats: Splats) -> Statistics:
    """Compute the statistics of a cloud; all but the counts are NaN if it is empty."""
    opacity = torch.sigmoid(splats.opacity_logits)
    opacity = opacity[~opacity.isnan()]
    means = splats.means[splats.means.isfinite().all(dim=1)]
    log_scales = splats.log_scales[splats.log_scales.isfinite()]
    box = torch.stack([means.amin(0), means.amax(0)]) if len(means) else means.new_full((2, 3), math.nan)
    box_min, box_max = box.tolist()

    voxels = ((means + 0.5) * DENSITY_GRID).floor()
    voxels = voxels[((voxels >= 0) & (voxels < DENSITY_GRID)).all(dim=1)].long()
    flat = (voxels * voxels.new_tensor([DENSITY_GRID**2, DENSITY_GRID, 1])).sum(dim=1)
    per_voxel = torch.bincount(flat, minlength=1)
    occupied = int((per_voxel > 0).sum())

    def percentile(share: float) -> float:
        if not len(log_scales):
            return math.nan
        rank = round(share * (len(log_scales) - 1))
        return float(log_scales.kthvalue(rank + 1).values.double().exp())

    return Statistics(
        count=len(splats),
        opacity_min=float(opacity.amin()) if len(opacity) else math.nan,
        opacity_mean=float(opacity.double().mean()),
        opacity_max=float(opacity.amax()) if len(opacity) else math.nan,
        transparent_share=float((opacity < NEARLY_TRANSPARENT).double().mean()),
        box_min=(box_min[0], box_min[1], box_min[2]),
        box_max=(box_max[0], box_max[1], box_max[2]),
        volume=math.prod(high - low for low, high in zip(box_min, box_max, strict=True)),
        density_max=int(per_voxel.amax()),
        density_mean=len(flat) / occupied if occupied else 0.0,
        scale_p5=percentile(0.05),
        scale_p50=percentile(0.5),
        scale_p95=percentile(0.95),
    )
