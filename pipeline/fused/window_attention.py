"""Attention inside windows of any length, whose rows are adjacent, without padding."""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.trellis import VoxelGrid

_WARPS, _PIPELINE_STAGES = 4, 2
# Queries and keys of a block.
_BLOCK = 64
# In place of minus infinity, of which two have no difference: a row may meet keys of other windows first.
_LOWEST = tl.constexpr(-1e30)


@dataclass(frozen=True, eq=False)
class Windows:
    """The rows of a voxel grid, sorted by window.

    order: [N] int64, the row of the grid at each place; place: [N] int64, the place of each row of the grid.
    ids, starts, ends: [N] int32, of each place: its window, and the places where that begins and ends.
    """

    order: Tensor
    place: Tensor
    ids: Tensor
    starts: Tensor
    ends: Tensor

    @staticmethod
    def of(grid: VoxelGrid, size: int, shift: int) -> "Windows":
        """Assign the rows to cubic windows, whose borders are at multiples of `size`, moved by -shift.

        Nothing waits for the device. Windows are at most 1,022 / size along each axis, and of few batch items.
        """
        window = (grid.positions + shift) // size
        ids = grid.batch
        for axis in range(3):
            ids = (ids << _axis_bits(size)) + window[:, axis]
        ids, order = ids.sort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        starts = torch.searchsorted(ids, ids)
        ends = torch.searchsorted(ids, ids, right=True)
        return Windows(order, place, ids.int(), starts.int(), ends.int())


def _axis_bits(size: int) -> int:
    """Return how many bits the number of a window on one axis needs."""
    return (1022 // size + 1).bit_length()


@triton.jit(do_not_specialize=["rows"])
def _window_attention_kernel(
    qkv_ptr, ids_ptr, starts_ptr, ends_ptr, out_ptr,
    rows, channels, head_dim, scale,
    BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_DIM)
    inside = column < head_dim
    head = tl.program_id(1) * head_dim + column
    q_mask = (row < rows)[:, None] & inside[None, :]
    q = tl.load(qkv_ptr + row.to(tl.int64)[:, None] * 3 * channels + head[None, :], q_mask, 0.0)
    window = tl.load(ids_ptr + row, row < rows, -1)
    accumulated = tl.zeros([BLOCK, BLOCK_DIM], tl.float32)
    denominator = tl.zeros([BLOCK], tl.float32)
    maximum = tl.full([BLOCK], _LOWEST, tl.float32)
    end = tl.load(ends_ptr + tl.minimum(first + BLOCK, rows) - 1)
    for start in range(tl.load(starts_ptr + first), end, BLOCK):
        key = start + tl.arange(0, BLOCK)
        valid = key < end
        place = key.to(tl.int64) * 3 * channels + channels
        k = tl.load(qkv_ptr + place[None, :] + head[:, None], valid[None, :] & inside[:, None], 0.0)
        v = tl.load(qkv_ptr + (place + channels)[:, None] + head[None, :], valid[:, None] & inside[None, :], 0.0)
        same = window[:, None] == tl.load(ids_ptr + key, valid, -2)[None, :]
        scores = tl.where(same, tl.dot(q, k) * scale, -float("inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        p = tl.exp2(scores - new_maximum[:, None])
        decay = tl.exp2(maximum - new_maximum)
        accumulated = tl.dot(p.to(v.dtype), v, accumulated * decay[:, None])
        denominator = denominator * decay + tl.sum(p, 1)
        maximum = new_maximum
    # Rows that only fill up the block have met no key.
    denominator = tl.where(row < rows, denominator, 1.0)
    out = out_ptr + row.to(tl.int64)[:, None] * channels + head[None, :]
    tl.store(out, (accumulated / denominator[:, None]).to(out_ptr.dtype.element_ty), q_mask)


def window_attention(qkv: Tensor, windows: Windows, heads: int) -> Tensor:
    """Let each row of qkv [N, 3 * C], sorted by window, attend to the rows of its window: [N, C].

    The columns of qkv are (q, k, v) x heads x head_dim.
    """
    rows, channels = len(qkv), qkv.shape[1] // 3
    head_dim = channels // heads
    out = qkv.new_empty(rows, channels)
    _window_attention_kernel[(triton.cdiv(rows, _BLOCK), heads)](
        qkv, windows.ids, windows.starts, windows.ends, out,
        rows, channels, head_dim, math.log2(math.e) / math.sqrt(head_dim),
        BLOCK=_BLOCK, BLOCK_DIM=triton.next_power_of_2(head_dim), num_warps=_WARPS, num_stages=_PIPELINE_STAGES,
    )  # fmt: skip
    return out
