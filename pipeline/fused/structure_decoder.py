"""The fused sparse-structure decoder: channels are the last axis in memory, as convolutions and norms prefer them."""

from typing import cast

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from pipeline.fused.graphs import GraphedCallable, GraphPool
from pipeline.trellis.structure_decoder import CHANNEL_NORM_EPS, ResBlock3d, SparseStructureDecoder, UpsampleBlock3d

_WARPS = 4
# Numbers that a block of threads normalises: as many rows of so many channels, once padded, as fit.
_BLOCK_ELEMENTS = 4096
_LAYOUT = torch.channels_last_3d


@triton.jit
def _norm_silu_kernel(
    x_ptr, y_ptr, constant_ptr, weight_ptr, bias_ptr, out_ptr,
    rows, channels, eps,
    HAS_Y: tl.constexpr, HAS_CONSTANT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    wide = column < channels
    inside = (row < rows)[:, None] & wide[None, :]
    place = row.to(tl.int64)[:, None] * channels + column[None, :]
    x = tl.load(x_ptr + place, inside, 0.0).to(tl.float32)
    if HAS_CONSTANT:
        x += tl.load(constant_ptr + column, wide, 0.0).to(tl.float32)[None, :]
    if HAS_Y:
        x += tl.load(y_ptr + place, inside, 0.0).to(tl.float32)
        rounded = x.to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + place, rounded, inside)
        x = rounded.to(tl.float32)
    x = tl.where(wide[None, :], x - (tl.sum(x, axis=1) / channels)[:, None], 0.0)
    x *= tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)[:, None]
    weight = tl.load(weight_ptr + column, wide, 0.0).to(tl.float32)
    x = x * weight[None, :] + tl.load(bias_ptr + column, wide, 0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + place, (x * tl.sigmoid(x)).to(out_ptr.dtype.element_ty), inside)


def norm_silu(
    x: Tensor, norm: nn.LayerNorm, *, y: Tensor | None = None, constant: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Return the SiLU of the norm over the channels of x + y + constant; with y, x becomes that sum.

    x and y are [B, C, X, Y, Z] with channels last in memory, and so is the result, in x's precision or another;
    constant is [C].
    """
    out = torch.empty_like(x, dtype=dtype, memory_format=_LAYOUT)
    channels = x.shape[1]
    rows = x.numel() // channels
    block = triton.next_power_of_2(channels)
    rows_of_block = max(1, _BLOCK_ELEMENTS // block)
    _norm_silu_kernel[(triton.cdiv(rows, rows_of_block),)](
        x, y, constant, norm.weight, norm.bias, out,
        rows, channels, CHANNEL_NORM_EPS,
        HAS_Y=y is not None, HAS_CONSTANT=constant is not None, ROWS=rows_of_block, BLOCK=block, num_warps=_WARPS,
    )  # fmt: skip
    return out


class FusedStructureDecoder:
    """A structure decoder that shares the parameters of a SparseStructureDecoder and is replayed from CUDA graphs."""

    def __init__(self, decoder: SparseStructureDecoder) -> None:
        """Lay out the kernels of the decoder's convolutions anew."""
        device = decoder.input_layer.weight.device
        self._pool = GraphPool(device) if device.type == "cuda" else None
        for module in decoder.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=_LAYOUT)
        self._decoder = decoder
        self._graphed: dict[torch.Size, GraphedCallable] = {}

    def __call__(self, z: Tensor) -> Tensor:
        """Decode z [B, latent_channels, R, R, R] float32 to logits [B, out_channels, 4R, 4R, 4R] float32."""
        if z.shape not in self._graphed:
            decoder = self._decoder
            self._graphed[z.shape] = GraphedCallable(lambda z: _decode(decoder, z), self._pool)
        return self._graphed[z.shape](z).clone()


def _decode(decoder: SparseStructureDecoder, z: Tensor) -> Tensor:
    x = decoder.input_layer(z).to(decoder.dtype).contiguous(memory_format=_LAYOUT)
    # What is yet to be added to x: the output of a convolution without its bias, and the bias.
    y: Tensor | None = None
    constant: Tensor | None = None
    for block in (*decoder.middle_block, *decoder.blocks):
        if isinstance(block, ResBlock3d):
            h = _convolve(norm_silu(x, block.norm1, y=y, constant=constant), block.conv1)
            h = norm_silu(h, block.norm2, constant=block.conv1.bias)
            y, constant = _convolve(h, block.conv2), block.conv2.bias
        else:
            if y is not None and constant is not None:
                x, y, constant = x + y + constant[:, None, None, None], None, None
            x = _upsample(x, cast(UpsampleBlock3d, block).conv)
    norm, _, conv = decoder.out_layer
    h = norm_silu(x, cast(nn.LayerNorm, norm), y=y, constant=constant, dtype=torch.float32)
    logits: Tensor = conv(h)
    return logits.contiguous()


def _convolve(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Apply a convolution without its bias, which the norm that follows adds."""
    return F.conv3d(x, conv.weight, None, padding=1).contiguous(memory_format=_LAYOUT)


def _upsample(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Convolve, then turn eight times the channels into twice the resolution, as UpsampleBlock3d does."""
    h = conv(x).movedim(1, -1).unflatten(-1, (-1, 2, 2, 2))
    # [B, X, Y, Z, C, 2, 2, 2] -> [B, X, 2, Y, 2, Z, 2, C]
    h = h.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return h.reshape(len(h), 2 * h.shape[1], 2 * h.shape[3], 2 * h.shape[5], -1).movedim(-1, 1)
