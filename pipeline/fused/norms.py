"""Triton kernels that fuse norms with the operations around them into one pass over memory.

They compute in float32 and round once, when they store.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from pipeline.fused.activations import Activations, store_fp8
from pipeline.trellis.layers import BLOCK_NORM_EPS

_WARPS = 4


@triton.jit
def normalise(x, channels, columns, eps):
    """Normalise x [BLOCK], which is zero from `channels` on, to mean 0 and variance 1."""
    centred = tl.where(columns < channels, x - tl.sum(x) / channels, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred) / channels + eps)


@triton.jit
def _add_norm_kernel(
    x_ptr, y_ptr, gate_ptr, constant_ptr, scale_ptr, shift_ptr, out_ptr, out_scale_ptr,
    channels, eps,
    HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr, HAS_CONSTANT: tl.constexpr, HAS_SCALE: tl.constexpr,
    SCALE_OFFSET: tl.constexpr, SILU: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    inside = columns < channels
    number = tl.program_id(0).to(tl.int64)
    row = number * channels + columns
    x = tl.load(x_ptr + row, inside, 0.0).to(tl.float32)
    if HAS_Y:
        y = tl.load(y_ptr + row, inside, 0.0).to(tl.float32)
        if HAS_GATE:
            y *= tl.load(gate_ptr + columns, inside, 0.0).to(tl.float32)
        x += y
    if HAS_CONSTANT:
        x += tl.load(constant_ptr + columns, inside, 0.0).to(tl.float32)
    if HAS_Y or HAS_CONSTANT:
        # The norm is of the residual stream as it is stored, which is rounded.
        rounded = x.to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + row, rounded, inside)
        x = rounded.to(tl.float32)
    x = normalise(x, channels, columns, eps)
    if HAS_SCALE:
        scale = tl.load(scale_ptr + columns, inside, 0.0).to(tl.float32) + SCALE_OFFSET
        x = x * scale + tl.load(shift_ptr + columns, inside, 0.0).to(tl.float32)
    if SILU:
        x *= tl.sigmoid(x)
    if FP8:
        store_fp8(tl.where(inside, x, 0.0), out_ptr, out_scale_ptr, number, channels, columns)
    else:
        tl.store(out_ptr + row, x.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _head_norm_kernel(
    x_ptr, gamma_ptr, row_stride, heads, head_dim, scale, BLOCK_HEADS: tl.constexpr, BLOCK_DIM: tl.constexpr
):
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    column = tl.arange(0, BLOCK_DIM)[None, :]
    inside = (head < heads) & (column < head_dim)
    place = (tl.program_id(1) * heads + head) * head_dim + column
    pointer = x_ptr + tl.program_id(0).to(tl.int64) * row_stride + place
    x = tl.load(pointer, inside, 0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)
    x = x / norm[:, None] * tl.load(gamma_ptr + place, inside, 0.0) * scale
    tl.store(pointer, x.to(x_ptr.dtype.element_ty), inside)


def add_norm(
    x: Tensor, *, y: Tensor | None = None, gate: Tensor | None = None, constant: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None, affine: tuple[Tensor, Tensor] | None = None,
    silu: bool = False, eps: float = BLOCK_NORM_EPS, out: Activations | None = None,
) -> Activations:  # fmt: skip
    """Add gate * y + constant to x in place, and return the layer norm of x, modulated or affine, then SiLU.

    x, y and out are [R, C] and contiguous; gate and constant are [C], and a gate without y means nothing. modulation
    (scale, shift) gives norm * (1 + scale) + shift, affine (weight, bias) gives norm * weight + bias, all [C]. Only x
    is required. The result is written to out, if given, in its precision.
    """
    rows, channels = x.shape
    out = Activations.empty_like(x, fp8=False) if out is None else out
    gate = None if y is None else gate
    scale, shift = modulation or affine or (None, None)
    _add_norm_kernel[(rows,)](
        x, y, gate, constant, scale, shift, out.values, out.scales,
        channels, eps,
        HAS_Y=y is not None, HAS_GATE=gate is not None, HAS_CONSTANT=constant is not None, HAS_SCALE=scale is not None,
        SCALE_OFFSET=1.0 if modulation else 0.0, SILU=silu, FP8=out.scales is not None,
        BLOCK=triton.next_power_of_2(channels), num_warps=_WARPS,
    )  # fmt: skip
    return out


def head_norm(x: Tensor, gamma: Tensor) -> None:
    """Apply the root-mean-square norm of each head in place, in the first P parts of each row of x.

    x [R, parts * heads * head_dim] is contiguous; gamma is [P, heads, head_dim] float32, P <= parts.
    """
    parts, heads, head_dim = gamma.shape
    _head_norm_kernel[(len(x), parts)](
        x, gamma, x.stride(0), heads, head_dim, math.sqrt(head_dim),
        BLOCK_HEADS=triton.next_power_of_2(heads), BLOCK_DIM=triton.next_power_of_2(head_dim), num_warps=_WARPS,
    )  # fmt: skip
