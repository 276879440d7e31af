"""A cloud of 3D gaussians as plain arrays."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

SH_COEFFICIENTS = (0, 3, 8, 15)
"""Higher spherical-harmonic coefficients per colour channel, by degree."""


@dataclass(frozen=True, eq=False)
class Splats:
    """N gaussians, float32, all on one device; values are those a PLY file holds (before activation).

    means:          [N, 3] positions; right-handed, y is vertical (see UpAxis), inside the unit cube around the origin.
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
        """Check shapes, dtypes and devices."""
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
        """Return the number of gaussians."""
        return len(self.means)

    @property
    def device(self) -> torch.device:
        """The device that all tensors are on."""
        return self.means.device

    @property
    def sh_degree(self) -> int:
        """The degree of the spherical harmonics, 0..3."""
        return 0 if self.f_rest is None else SH_COEFFICIENTS.index(self.f_rest.shape[2])

    def to(self, device: torch.device | str) -> "Splats":
        """Return the same splats on another device."""
        return Splats(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def drop_non_finite(self) -> "tuple[Splats, int]":
        """Drop gaussians that hold a NaN or an infinity anywhere; also return how many were dropped."""
        keep = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for tensor in self.tensors().values():
            keep &= tensor.isfinite().reshape(len(self), tensor[:1].numel()).all(dim=1)
        dropped = len(self) - int(keep.sum())
        if not dropped:
            return self, 0
        return Splats(**{name: tensor[keep] for name, tensor in self.tensors().items()}), dropped

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; `f_rest` only if there is one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _check(name: str, tensor: Tensor, shape: tuple[int | None, ...], means: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(
        expected in (None, actual) for expected, actual in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("N" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected shape [{expected}], got {list(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32, got {tensor.dtype}")
    if tensor.device != means.device:
        raise ValueError(f"{name}: expected device {means.device} as means, got {tensor.device}")


def normalise(splats: Splats, extent: float) -> Splats:
    """Centre the bounding box of the means on the origin and scale its longest side to `extent`.

    The gaussians' own scales change in proportion. Raises ValueError if `extent` is not a positive number, or if the
    means are empty, not finite or all in one place.
    """
    if not (math.isfinite(extent) and extent > 0):
        raise ValueError(f"extent: expected a positive number, got {extent}")
    if not len(splats) or not bool(splats.means.isfinite().all()):
        raise ValueError(
            "means: expected at least one, all finite; `sn17-miner splats convert IN OUT "
            "--drop-invalid` leaves the other gaussians out"
        )
    low, high = splats.means.amin(0), splats.means.amax(0)
    longest = float((high - low).amax())
    if longest == 0.0:
        raise ValueError("means: expected more than one distinct position, all are the same")
    factor = extent / longest
    means = (splats.means - (low + high) / 2) * factor
    return replace(splats, means=means, log_scales=splats.log_scales + math.log(factor))


# What half a turn about x makes of y, z, x; xy, yz, 2zz - xx - yy, xz, xx - yy; and the seven of degree 3: each is odd
# or even in y and z together.
_SIGNS_OF_HALF_TURN = (-1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0)


def flip_up_axis(splats: Splats) -> Splats:
    """Turn splats with the upper side at -y and the front at -z, as upstream's, to +y and +z, or back.

    That is half a turn about x, (x, y, z) -> (x, -y, -z), which changes the signs of some harmonics.
    """
    w, x, y, z = splats.quaternions.unbind(1)
    means = splats.means * splats.means.new_tensor([1.0, -1.0, -1.0])
    f_rest = splats.f_rest
    if f_rest is not None:
        f_rest = f_rest * f_rest.new_tensor(_SIGNS_OF_HALF_TURN[: f_rest.shape[2]])
    # (0, 1, 0, 0) times the quaternion.
    return replace(splats, means=means, quaternions=torch.stack([-x, w, -z, y], dim=1), f_rest=f_rest)
