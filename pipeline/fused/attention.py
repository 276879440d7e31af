"""FlashAttention for sequences of any length, which needs no compiling or planning when the length changes.

cuDNN, which torch chooses, is faster where queries and keys are many, and slower where keys are few: on an H100, 290
against 314 us for 2 x 4,096 queries and keys, 16 heads of 64, and 66 against 62 us for 4,096 queries and 1,374 keys. It
plans 50 ms for each new length.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from pipeline.compute import capability

_WARPS, _PIPELINE_STAGES = 4, 3
# Queries and keys of a block.
_BLOCK = 64
# Where operands of matrix products are in registers, blocks of heads wider than 64 spill them, and have to be smaller.
# Two such blocks fit the 99 KiB of shared memory of consumers' cards.
_WIDE_HEAD, _SMALL_BLOCK = 64, 32
# Hopper's products read their operands from shared memory, and so do those of datacentres' Blackwell.
_SHARED_OPERANDS = (9, 10)


@triton.jit
def _attend_step(q, k, v, accumulated, denominator, maximum, scale, valid, MASKED: tl.constexpr):
    scores = tl.dot(q, k)
    if MASKED:
        scores = tl.where(valid[None, :], scores, -float("inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale)
    p = tl.exp2(scores * scale - new_maximum[:, None])
    decay = tl.exp2(maximum - new_maximum)
    accumulated = tl.dot(p.to(v.dtype), v, accumulated * decay[:, None])
    return accumulated, denominator * decay + tl.sum(p, 1), new_maximum


# Otherwise Triton compiles separately for lengths that are divisible by 16.
@triton.jit(do_not_specialize=["queries", "keys"])
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, count_ptr,
    queries, keys,
    q_item, q_row, kv_item, kv_row, out_item, out_row,
    head_dim, scale,
    HAS_COUNT: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
    if HAS_COUNT:
        keys = tl.load(count_ptr)
    item = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * head_dim
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_DIM)
    key = tl.arange(0, KEYS)
    inside = column < head_dim
    q_mask = (row < queries)[:, None] & inside[None, :]
    q = tl.load(q_ptr + item * q_item + row[:, None] * q_row + start + column[None, :], q_mask, 0.0)
    k_block = k_ptr + item * kv_item + start + key[None, :] * kv_row + column[:, None]
    v_block = v_ptr + item * kv_item + start + key[:, None] * kv_row + column[None, :]
    accumulated = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    denominator = tl.zeros([ROWS], tl.float32)
    maximum = tl.full([ROWS], -float("inf"), tl.float32)
    unmasked_keys = keys // KEYS * KEYS
    for _ in range(0, unmasked_keys, KEYS):
        if PADDED_DIM:
            k = tl.load(k_block, inside[:, None], 0.0)
            v = tl.load(v_block, inside[None, :], 0.0)
        else:
            k = tl.load(k_block)
            v = tl.load(v_block)
        accumulated, denominator, maximum = _attend_step(q, k, v, accumulated, denominator, maximum, scale, key, False)
        k_block += KEYS * kv_row
        v_block += KEYS * kv_row
    if unmasked_keys < keys:
        valid = unmasked_keys + key < keys
        k = tl.load(k_block, valid[None, :] & inside[:, None], 0.0)
        v = tl.load(v_block, valid[:, None] & inside[None, :], 0.0)
        accumulated, denominator, maximum = _attend_step(q, k, v, accumulated, denominator, maximum, scale, valid, True)
    out_block = out_ptr + item * out_item + row[:, None] * out_row + start + column[None, :]
    tl.store(out_block, (accumulated / denominator[:, None]).to(out_ptr.dtype.element_ty), q_mask)


def flash_attend(q: Tensor, k: Tensor, v: Tensor, count: Tensor | None = None) -> Tensor:
    """Compute scaled dot-product attention of q [B, L, heads, dim] to k and v [B, S, heads, dim].

    The last two axes of each are contiguous; k and v have the same strides. count: [1] int32, how many of the keys are
    attended to, the first ones; all by default. It is read when the kernel runs, as graphs need. Returns
    [B, L, heads, dim].
    """
    batch, queries, heads, head_dim = q.shape
    out = q.new_empty(batch, queries, heads, head_dim)
    block_dim = triton.next_power_of_2(head_dim)
    block = _SMALL_BLOCK if block_dim > _WIDE_HEAD and capability(q.device)[0] not in _SHARED_OPERANDS else _BLOCK
    _attention_kernel[(triton.cdiv(queries, block), heads, batch)](
        q, k, v, out, count,
        queries, k.shape[1],
        *q.stride()[:2], *k.stride()[:2], *out.stride()[:2],
        # The hardware computes exp2.
        head_dim, math.log2(math.e) / math.sqrt(head_dim),
        HAS_COUNT=count is not None, ROWS=block, KEYS=block, BLOCK_DIM=block_dim, PADDED_DIM=block_dim != head_dim,
        num_warps=_WARPS, num_stages=_PIPELINE_STAGES,
    )  # fmt: skip
    return out
