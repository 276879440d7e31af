"""The quantisation of SPZ: Splats <-> the container's raw bytes, exactly as the reference library computes it.

The reference is the clang build of 404-Repo/spz, which fuses some multiplications and additions. Here a fused
step is a float64 multiplication (exact for two float32 values) and a float64 addition, rounded to float32. Every
other step is one float32 operation per kernel, so that the CPU and CUDA give the same bytes.
"""

import functools
import math
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.splats.splats import SH_COEFFICIENTS, Splats

MAGIC = 0x5053474E
HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, gaussians, SH degree, fractional bits of a position, flags, reserved."""
FRACTIONAL_BITS = 12

# The largest float32 below one half: adding it and truncating rounds half away from zero, for all magnitudes.
_HALF = 0.5 - 2.0**-25
_INT32_LIMIT = 2.0**31


def plane_widths(sh_degree: int, version: int = 2) -> tuple[int, ...]:
    """Return the bytes a gaussian of each plane: positions, alphas, colours, scales, rotations, harmonics.

    Versions 3 and 4, and degree 4, are those of nianticlabs/spz.
    """
    return (6 if version == 1 else 9, 1, 3, 3, 4 if version >= 3 else 3, 3 * ((sh_degree + 1) ** 2 - 1))


def raw_size(count: int, sh_degree: int, version: int = 2) -> int:
    """Return the size in bytes of a raw container: header and attribute planes."""
    return HEADER.size + count * sum(plane_widths(sh_degree, version))


def quantise(splats: Splats) -> Tensor:
    """Quantise splats to a raw container: uint8 [16 + N * (19 + 3 D)] on their device.

    Byte-identical to the reference for every input, even where it silently loses values: positions wrap outside
    [-2048, 2048), NaN becomes byte 0. The header is the reference's: version 2, 12 fractional bits, no flags. Planes:
    positions, alphas, colours, scales, rotations, harmonics.
    """
    n, degree = len(splats), splats.sh_degree
    coefficients = SH_COEFFICIENTS[degree]
    raw = torch.empty(raw_size(n, degree), dtype=torch.uint8, device=splats.device)
    header = HEADER.pack(MAGIC, 2, n, degree, FRACTIONAL_BITS, 0, 0)
    raw[: HEADER.size] = torch.frombuffer(bytearray(header), dtype=torch.uint8).to(splats.device)
    sizes = [9 * n, n, 3 * n, 3 * n, 3 * n, 3 * coefficients * n]
    positions, alphas, colours, scales, rotations, harmonics = raw[HEADER.size :].split(sizes)

    fixed = _round(_fits_int32(splats.means * 2.0**FRACTIONAL_BITS)).to(torch.int32)
    positions.view(n, 3, 3).copy_(fixed.view(torch.uint8).view(n, 3, 4)[..., :3])
    alphas.copy_(_alpha_bytes(splats.opacity_logits))
    colours.view(n, 3).copy_(_to_byte((splats.f_dc.double() * 38.25 + 127.5).float()))
    scales.view(n, 3).copy_(_to_byte((splats.log_scales + 10.0) * 16.0))
    rotations.view(n, 3).copy_(_rotation_bytes(splats.quaternions))
    if coefficients and splats.f_rest is not None:
        harmonics.view(n, coefficients, 3).copy_(_harmonic_bytes(splats.f_rest).transpose(1, 2))
    return raw


def _round(x: Tensor) -> Tensor:
    """Round half away from zero; the integer conversion that follows cuts off the fraction."""
    return x + torch.copysign(x.new_tensor(_HALF), x)


def _sqrt(x: Tensor) -> Tensor:
    """Return the correctly rounded float32 square root.

    PyTorch's own is up to one unit off on the CPU. Computed in float64 it is exact: the root of a float32 is further
    from every midpoint of two float32 values than the error of a float64 root.
    """
    return x.double().sqrt().float()


def _sum_of_squares(first: Tensor, *others: Tensor) -> Tensor:
    """Add squares from left to right, each addition fused with its multiplication."""
    total = first * first
    for x in others:
        total = torch.addcmul(total.double(), x.double(), x.double()).float()
    return total


def _fits_int32(x: Tensor) -> Tensor:
    """Replace values that int32 cannot hold by zero: the x86 conversion gives INT_MIN, whose low bytes are zero."""
    return torch.where(x.abs() < _INT32_LIMIT, x, 0.0)


def _to_byte(x: Tensor) -> Tensor:
    """Clamp to 0..255 and round half up; NaN becomes 0."""
    return (x.nan_to_num(nan=0.0).clamp_(0.0, 255.0) + _HALF).to(torch.uint8)


def _alpha_bytes(logits: Tensor) -> Tensor:
    lowest = torch.from_numpy(lowest_logits()).to(logits.device)
    logits = logits.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    # The sigmoid of a device is off by at most one byte; the thresholds decide.
    guess = (logits.sigmoid() * 255.0 + 0.5).to(torch.int32)
    too_low, too_high = logits >= lowest[guess + 1], logits < lowest[guess]
    return (guess + too_low.int() - too_high.int()).to(torch.uint8)


def _rotation_bytes(quaternions: Tensor) -> Tensor:
    """Map x, y, z of the normalised quaternion with w >= 0 from [-1, 1] to 0..255: uint8 [N, 3]."""
    w, x, y, z = quaternions.T.contiguous()
    norm = _sqrt(_sum_of_squares(y, x, z, w))
    factor = torch.where(w / norm < 0.0, -127.5, 127.5)
    return torch.stack([_to_byte((component / norm) * factor + 127.5) for component in (x, y, z)], dim=1)


def _harmonic_bytes(f_rest: Tensor) -> Tensor:
    """Round to the middle of buckets of 8 (degree 1) or 16 (degrees 2, 3) of 256 levels: uint8 [N, 3, D]."""
    level = _round(f_rest * 128.0).trunc() + 128.0
    # Values that int32 cannot hold become INT_MIN in the reference, hence 0; clamping early changes nothing else.
    level = torch.where(level < _INT32_LIMIT, level, 0.0).clamp_(0.0, 256.0).to(torch.int16)
    bucket = torch.tensor([8] * 3 + [16] * (f_rest.shape[2] - 3), dtype=torch.int16, device=f_rest.device)
    return ((level + bucket // 2) & -bucket).clamp_(max=255).to(torch.uint8)


def dequantise(raw: Tensor, count: int, sh_degree: int, version: int, fractional_bits: int) -> Splats:
    """Decode the planes of a container; `raw` is uint8 on the CPU and begins after the header.

    Opacity logits are infinite for alpha bytes 0 and 255. Quaternions are longer than 1 if their quantised x, y, z
    already are. Of harmonics above degree 3, those up to degree 3 are decoded.
    """
    widths = plane_widths(sh_degree, version)
    sizes = [count * width for width in widths]
    positions, alphas, colours, scales, rotations, harmonics = raw[: sum(sizes)].split(sizes)
    if version == 1:
        means = positions.clone().view(torch.float16).float().view(count, 3)
    else:
        fixed = torch.zeros(count, 3, 4, dtype=torch.uint8)
        fixed[..., 1:] = positions.view(count, 3, 3)
        # The 24 bits are at the top of the word, so that the shift extends the sign; both steps are exact.
        means = (fixed.view(torch.int32).squeeze(2) >> 8).float() * 2.0**-fractional_bits
    f_rest = None
    if sh_degree:
        by_channel = harmonics.view(count, -1, 3)[:, : SH_COEFFICIENTS[-1]].transpose(1, 2)
        f_rest = ((by_channel.float() - 128.0) / 128.0).contiguous()
    return Splats(
        means=means,
        quaternions=(_largest_left_out if version >= 3 else _w_left_out)(rotations.view(count, -1)),
        log_scales=(scales.float() / 16.0 - 10.0).view(count, 3),
        opacity_logits=torch.from_numpy(alpha_logits())[alphas.int()],
        f_dc=((colours.float() / 255.0 - 0.5) / _COLOUR_SCALE).view(count, 3),
        f_rest=f_rest,
    )


def _w_left_out(xyz_bytes: Tensor) -> Tensor:
    """Decode rotations of versions 1 and 2, uint8 [N, 3]."""
    x, y, z = xyz_bytes.T.float() * _ROTATION_STEP - 1.0
    w = _sqrt((1.0 - _sum_of_squares(y, x, z)).clamp_(min=0.0))
    return torch.stack([w, x, y, z], dim=1)


def _largest_left_out(packed: Tensor) -> Tensor:
    """Decode rotations from version 3 on, uint8 [N, 4]: `unpackQuaternionSmallestThree` of nianticlabs/spz.

    A word holds the index of the largest of x, y, z, w in its highest two bits, then, from the highest on, the sign and
    9 bits of the magnitude of each other one.
    """
    words = packed.contiguous().view(torch.int32)[:, 0].long() & 0xFFFFFFFF
    largest = words >> 30
    fields = torch.stack([words >> shift & 0x3FF for shift in (20, 10, 0)], dim=1)
    magnitudes = (fields & 0x1FF).float() * (math.sqrt(0.5) / 0x1FF)
    others = torch.where(fields > 0x1FF, -magnitudes, magnitudes)
    xyzw = torch.empty(len(words), 4)
    # The three keep their order, and skip the place of the largest.
    places = torch.arange(3) + (torch.arange(3) >= largest[:, None])
    xyzw.scatter_(1, places, others)
    xyzw.scatter_(1, largest[:, None], (1.0 - others.square().sum(1, keepdim=True)).clamp_(min=0.0).sqrt())
    return xyzw[:, [3, 0, 1, 2]]


# Python floats that are float32 values, so that the arithmetic with tensors is float32 arithmetic.
_COLOUR_SCALE = float(np.float32(0.15))
_ROTATION_STEP = float(np.float32(1.0) / np.float32(127.5))


@functools.cache
def lowest_logits() -> NDArray[np.float32]:
    """Return the lowest opacity logit of each byte, float32 [257]; byte 256 does not exist and NaN is below no logit.

    Found by bisection over all float32 values in order, which works because the chain of roundings is monotonic.
    """
    targets = np.arange(1, 256)
    # Bit patterns of non-negative float32 are ordered; mirroring the negative ones orders them all.
    low = np.full(255, -int(np.float32(16.0).view(np.int32)))
    high = -low
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        reached = _alpha_byte(_from_order_key(middle)) >= targets
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle, low)
    return np.concatenate([[-np.inf], _from_order_key(high), [np.nan]]).astype(np.float32)


def _from_order_key(key: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude = np.abs(key).astype(np.int32).view(np.float32)
    return np.where(key < 0, -magnitude, magnitude)


def _alpha_byte(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    one = np.float32(1.0)
    # exp in float64, rounded once, equals the correctly rounded float32 exp of the C library.
    sigmoid = one / (one + np.exp(-logits.astype(np.float64)).astype(np.float32))
    return np.floor((sigmoid * np.float32(255.0)).astype(np.float64) + 0.5).astype(np.int64)


@functools.cache
def alpha_logits() -> NDArray[np.float32]:
    """Return the opacity logit that each alpha byte decodes to, infinite at both ends: float32 [256]."""
    alpha = np.arange(256, dtype=np.float32) / np.float32(255.0)
    with np.errstate(divide="ignore"):
        odds = alpha / (np.float32(1.0) - alpha)
        return np.log(odds.astype(np.float64)).astype(np.float32)
