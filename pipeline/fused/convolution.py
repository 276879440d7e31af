"""Sparse convolution: every source row is multiplied by all kernel offsets, then the neighbours are summed.

No neighbourhood is copied, and rows that stand for several voxels (up-sampled features) are multiplied only once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.fused.norms import normalise
from pipeline.trellis.layers import BLOCK_NORM_EPS

OFFSETS = 27


# Otherwise Triton compiles separately for counts that are divisible by 16.
@triton.jit(do_not_specialize=["rows", "sources", "skip_rows"])
def _gather_sum_kernel(
    products_ptr, table_ptr, bias_ptr, scale_ptr, shift_ptr, skip_ptr, skip_row_ptr, out_ptr,
    rows, sources, skip_rows, channels, eps,
    MODULATED: tl.constexpr, HAS_SKIP: tl.constexpr, HAS_SKIP_ROW: tl.constexpr,
    OFFSETS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    inside = columns < channels
    row = tl.program_id(0)
    item = tl.program_id(1).to(tl.int64)
    total = tl.load(bias_ptr + columns, inside, 0.0).to(tl.float32)
    for offset in range(OFFSETS):
        source = tl.load(table_ptr + row * OFFSETS + offset)
        if source >= 0:
            start = ((item * sources + source) * OFFSETS + offset) * channels
            total += tl.load(products_ptr + start + columns, inside, 0.0).to(tl.float32)
    if MODULATED:
        total = total.to(out_ptr.dtype.element_ty).to(tl.float32)
        total = normalise(total, channels, columns, eps)
        scale = tl.load(scale_ptr + columns, inside, 0.0).to(tl.float32) + 1.0
        total = total * scale + tl.load(shift_ptr + columns, inside, 0.0).to(tl.float32)
        total *= tl.sigmoid(total)
    if HAS_SKIP:
        skip_row = tl.load(skip_row_ptr + row) if HAS_SKIP_ROW else row
        skip_row += item * skip_rows
        total += tl.load(skip_ptr + skip_row * channels + columns, inside, 0.0).to(tl.float32)
    out = (item * rows + row) * channels + columns
    tl.store(out_ptr + out, total.to(out_ptr.dtype.element_ty), inside)


def gather_sum(
    products: Tensor, table: Tensor, bias: Tensor, *,
    modulation: tuple[Tensor, Tensor] | None = None, skip: Tensor | None = None, skip_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return bias plus the sum of products[b, table[n, o], o] over the offsets o that have a neighbour: [B, N, C].

    products [B, M, 27 * C]: each source row times the weights of each offset; table [N, 27] int32: the source row at
    each offset, -1 where there is none; bias [C]. Two optional steps follow. With modulation (scale, shift), each [C],
    the sum becomes the SiLU of norm(sum) * (1 + scale) + shift. Then skip [B, N, C] is added or, with skip_rows [N]
    int32, those rows of skip [B, S, C].
    """
    batch, sources, _ = products.shape
    rows, channels = len(table), len(bias)
    out = products.new_empty(batch, rows, channels)
    scale, shift = modulation or (None, None)
    block = triton.next_power_of_2(channels)
    _gather_sum_kernel[(rows, batch)](
        products, table, bias, scale, shift, skip, skip_rows, out,
        rows, sources, rows if skip is None else skip.shape[1], channels, BLOCK_NORM_EPS,
        MODULATED=modulation is not None, HAS_SKIP=skip is not None, HAS_SKIP_ROW=skip_rows is not None,
        OFFSETS=OFFSETS, BLOCK=block,
        # Narrow rows leave threads of a second warp idle: 77 instead of 45 us for 2 x 12,000 rows of 128 channels.
        num_warps=1 if block <= 256 else 4,
    )  # fmt: skip
    return out


def pack_kernel(weight: torch.nn.Parameter) -> Tensor:
    """Lay out a kernel [out, 3, 3, 3, in] as [27 * out, in], the weight of `products`, without a second copy.

    The parameter keeps its values and shape and becomes a view of the result.
    """
    out_channels, in_channels = weight.shape[0], weight.shape[-1]
    packed = weight.detach().flatten(1, 3).transpose(0, 1).contiguous()
    weight.data = packed.transpose(0, 1).unflatten(1, (3, 3, 3))
    return packed.view(OFFSETS * out_channels, in_channels)
