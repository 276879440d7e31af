"""Splats: a cloud of 3D gaussians as plain arrays, their statistics and the validator's verdict on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

SH_COEFFICIENTS = (0, 3, 8, 15)
"""Higher spherical-harmonic coefficients per colour channel, by degree."""

NEARLY_TRANSPARENT = 1e-3
MIN_GAUSSIANS = 7000
MAX_TRANSPARENT_PERCENT = 80
DENSITY_GRID = 64


@dataclass(frozen=True, eq=False)
class Splats:
    """N gaussians, float32, all on one device; values are those a PLY file holds (before activation).

    means:          [N, 3] positions; right-handed, +y up, the object inside the unit cube around the origin.
    quaternions:    [N, 4] rotations, w first; not necessarily of unit length.
    log_scales:     [N, 3] natural logarithm of the standard deviation along each axis.
    opacity_logits: [N] logit of the opacity; infinite for fully transparent or opaque.
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

    def __post_init__(self) -> None:
        _check("means", self.means, (None, 3), self.means)
        n = len(self.means)
        _check("quaternions", self.quaternions, (n, 4), self.means)
        _check("log_scales", self.log_scales, (n, 3), self.means)
        _check("opacity_logits", self.opacity_logits, (n,), self.means)
        _check("f_dc", self.f_dc, (n, 3), self.means)
        if self.f_rest is not None:
            _check("f_rest", self.f_rest, (n, 3, None), self.means)
            if self.f_rest.shape[2] not in SH_COEFFICIENTS:
                raise ValueError(f"f_rest: expected 0, 3, 8 or 15 coefficients per channel, got {self.f_rest.shape[2]}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def device(self) -> torch.device:
        """The device that all tensors are on."""
        return self.means.device

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0..3."""
        return 0 if self.f_rest is None else SH_COEFFICIENTS.index(self.f_rest.shape[2])

    def to(self, device: torch.device | str) -> Splats:
        """The same splats on another device."""
        return Splats(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def drop_non_finite(self) -> tuple[Splats, int]:
        """The splats without those that hold a NaN or an infinity anywhere, and how many were dropped."""
        keep = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for tensor in self._tensors().values():
            keep &= tensor.isfinite().reshape(len(self), tensor[:1].numel()).all(dim=1)
        dropped = len(self) - int(keep.sum())
        if not dropped:
            return self, 0
        return Splats(**{name: tensor[keep] for name, tensor in self._tensors().items()}), dropped

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _check(name: str, tensor: Tensor, shape: tuple[int | None, ...], means: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("N" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: expected shape [{expected}], got {list(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32, got {tensor.dtype}")
    if tensor.device != means.device:
        raise ValueError(f"{name}: expected device {means.device} as means, got {tensor.device}")


@dataclass(frozen=True)
class Statistics:
    """What a cloud looks like in numbers; lengths in the unit of the means.

    Non-finite values are left out of every figure but `count` and the opacities, where an infinite logit is
    an opacity of 0 or 1. Figures that no gaussian contributes to are NaN, densities 0.
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


def statistics(splats: Splats) -> Statistics:
    """Describe a cloud; for an empty one every figure but the counts is NaN."""
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


def validity(splats: Splats) -> str | None:
    """None when the validator of subnet 17 would score these splats, else why it would answer 0.

    The validator judges what it decodes: call this on the splats read back from the container. Its test of
    free video memory is not repeated here.
    """
    # The rules, their order and the tolerances are the validator's, quirks included: "close" is torch.isclose
    # with its defaults, so the zeros of the identity must be met within 1e-8, and a cloud is refused when one
    # of its first three points happens to lie at (1, 1, 1).
    if len(splats) < MIN_GAUSSIANS:
        return f"{len(splats)} gaussians; the validator asks for at least {MIN_GAUSSIANS}"
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


def normalise(splats: Splats, extent: float) -> Splats:
    """Centre the box of the means on the origin, axis by axis, and scale its longest side to `extent`.

    Scales follow. Raises ValueError when `extent` is not a positive number, or the means are empty, not
    finite or all in one place.
    """
    if not (math.isfinite(extent) and extent > 0):
        raise ValueError(f"extent: expected a positive number, got {extent}")
    if not len(splats) or not bool(splats.means.isfinite().all()):
        raise ValueError("means: expected at least one, all finite; call drop_non_finite() first")
    low, high = splats.means.amin(0), splats.means.amax(0)
    longest = float((high - low).amax())
    if longest == 0.0:
        raise ValueError("means: expected more than one distinct position, all are the same")
    factor = extent / longest
    return Splats(
        means=(splats.means - (low + high) / 2) * factor,
        quaternions=splats.quaternions,
        log_scales=splats.log_scales + math.log(factor),
        opacity_logits=splats.opacity_logits,
        f_dc=splats.f_dc,
        f_rest=splats.f_rest,
    )


def upright(splats: Splats) -> Splats:
    """Half a turn about x: (x, y, z) -> (x, -y, -z), for objects that stand on their heads.

    Upstream's PLY files have the object's upper side at -y, while validators look at it with +y up.
    Raises ValueError for splats with higher harmonics, which would have to turn, too.
    """
    if splats.sh_degree:
        raise ValueError(f"f_rest: splats of degree {splats.sh_degree} cannot be turned, only of degree 0")
    w, x, y, z = splats.quaternions.unbind(1)
    return Splats(
        means=splats.means * splats.means.new_tensor([1.0, -1.0, -1.0]),
        # (0, 1, 0, 0) times the quaternion.
        quaternions=torch.stack([-x, w, -z, y], dim=1),
        log_scales=splats.log_scales,
        opacity_logits=splats.opacity_logits,
        f_dc=splats.f_dc,
    )
