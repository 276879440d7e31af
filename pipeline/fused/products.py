"""Matrix products whose last step, before anything is stored, is a norm of heads or the sum with a residual.

cuBLAS has no such epilogues, so that queries and keys, or the residual stream, would pass through memory once more. The
products themselves take as long as cuBLAS's on Hopper (8,192 x 1,024 x 4,096 on an H100: 96 against 98 us), where
Triton's descriptors become bulk copies; on other GPUs they have not been measured, and are left to cuBLAS.
"""

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.tools.tensor_descriptor import TensorDescriptor

from pipeline.compute import capability

_HOPPER = 9
# Rows, outputs and inputs of a tile. Three stages, and the tile that is stored, fill a multiprocessor's shared memory.
_ROWS, _OUTPUTS, _INPUTS = 128, 256, 64
_WARPS, _PIPELINE_STAGES = 8, 3
# Tiles that are next to each other share their rows in the cache.
_GROUP = 8


@triton.jit
def _finish(
    total, out_desc, bias_ptr, gamma_ptr, gate_ptr, row, output, normed_outputs, scale,
    NORM: tl.constexpr, ADD: tl.constexpr, HAS_GATE: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    column = output + tl.arange(0, OUTPUTS)
    total += tl.load(bias_ptr + column).to(tl.float32)[None, :]
    if NORM:
        if output < normed_outputs:
            heads = tl.reshape(total, [ROWS, OUTPUTS // HEAD_DIM, HEAD_DIM])
            norm = tl.maximum(tl.sqrt(tl.sum(heads * heads, axis=2)), 1e-12)
            total = tl.reshape(heads / norm[:, :, None] * scale, [ROWS, OUTPUTS])
            total *= tl.load(gamma_ptr + column)[None, :]
    if ADD:
        if HAS_GATE:
            total *= tl.load(gate_ptr + column).to(tl.float32)[None, :]
        total += out_desc.load([row, output]).to(tl.float32)
    out_desc.store([row, output], total.to(bias_ptr.dtype.element_ty))


# Otherwise Triton compiles separately for numbers of rows that are divisible by 16.
@triton.jit(do_not_specialize=["rows"])
def _product_kernel(
    x_desc, weight_desc, out_desc, bias_ptr, gamma_ptr, gate_ptr,
    rows, outputs, inputs, normed_outputs, scale,
    NORM: tl.constexpr, ADD: tl.constexpr, HAS_GATE: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    row_tiles, output_tiles = tl.cdiv(rows, ROWS), tl.cdiv(outputs, OUTPUTS)
    for tile in tl.range(tl.program_id(0), row_tiles * output_tiles, PROGRAMS, flatten=True):
        first = tile // (GROUP * output_tiles) * GROUP
        size = tl.minimum(row_tiles - first, GROUP)
        within = tile % (GROUP * output_tiles)
        row = (first + within % size) * ROWS
        output = within // size * OUTPUTS
        total = tl.zeros([ROWS, OUTPUTS], tl.float32)
        for start in range(0, inputs, INPUTS):
            x = x_desc.load([row, start])
            weight = weight_desc.load([output, start])
            total = tl.dot(x, weight.T, total)
        # In two halves, since one that is loaded and one that is stored share the memory that a whole one would take.
        halves = tl.permute(tl.reshape(total, [ROWS, 2, OUTPUTS // 2]), [0, 2, 1])
        left, right = tl.split(halves)
        _finish(
            left, out_desc, bias_ptr, gamma_ptr, gate_ptr, row, output, normed_outputs, scale,
            NORM, ADD, HAS_GATE, HEAD_DIM, ROWS, OUTPUTS // 2,
        )  # fmt: skip
        _finish(
            right, out_desc, bias_ptr, gamma_ptr, gate_ptr, row, output + OUTPUTS // 2, normed_outputs, scale,
            NORM, ADD, HAS_GATE, HEAD_DIM, ROWS, OUTPUTS // 2,
        )  # fmt: skip


def fits(layer: nn.Linear) -> bool:
    """Return whether the products of a layer can be computed here: on Hopper, in half precision, in whole tiles."""
    weight = layer.weight
    if weight.dtype not in (torch.float16, torch.bfloat16) or capability(weight.device)[0] != _HOPPER:
        return False
    return layer.out_features % _OUTPUTS == 0 and layer.in_features % _INPUTS == 0


def fits_heads(gamma: Tensor) -> bool:
    """Return whether tiles hold whole heads: gamma is [P, heads, head_dim]."""
    return _OUTPUTS // 2 % gamma.shape[2] == 0 and gamma.numel() % _OUTPUTS == 0


def product_with_head_norm(x: Tensor, layer: nn.Linear, gamma: Tensor) -> Tensor:
    """Apply a layer to x [R, in], then the root-mean-square norm to each head of the first parts of each row.

    The result is [R, parts * heads * head_dim]; gamma is [P, heads, head_dim] float32, P <= parts. Needs `fits` and
    `fits_heads`.
    """
    out = x.new_empty(len(x), layer.out_features)
    _launch(x, layer, out, gamma=gamma)
    return out


def add_product(residual: Tensor, x: Tensor, layer: nn.Linear, gate: Tensor | None) -> None:
    """Add gate * layer(x) to residual [R, out] in place; x is [R, in], gate [out]. Needs `fits`."""
    _launch(x, layer, residual, gate=gate, add=True)


def _launch(
    x: Tensor, layer: nn.Linear, out: Tensor, *,
    gamma: Tensor | None = None, gate: Tensor | None = None, add: bool = False,
) -> None:  # fmt: skip
    head_dim = 1 if gamma is None else gamma.shape[2]
    programs = multiprocessors(x.device)
    tiles = triton.cdiv(len(x), _ROWS) * triton.cdiv(layer.out_features, _OUTPUTS)
    _product_kernel[(min(programs, tiles),)](
        TensorDescriptor.from_tensor(x, [_ROWS, _INPUTS]),
        TensorDescriptor.from_tensor(layer.weight, [_OUTPUTS, _INPUTS]),
        TensorDescriptor.from_tensor(out, [_ROWS, _OUTPUTS // 2]),
        layer.bias, gamma, gate,
        len(x), layer.out_features, layer.in_features, 0 if gamma is None else gamma.numel(), math.sqrt(head_dim),
        NORM=gamma is not None, ADD=add, HAS_GATE=gate is not None, HEAD_DIM=head_dim,
        ROWS=_ROWS, OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, GROUP=_GROUP, PROGRAMS=programs,
        num_warps=_WARPS, num_stages=_PIPELINE_STAGES,
    )  # fmt: skip


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count
