"""The fused gaussian decoder: rows are sorted by window, so that attention needs neither padding nor gathering."""

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.fused.activations import Activations
from pipeline.fused.linear import FusedLinear, head_gammas
from pipeline.fused.norms import add_norm
from pipeline.fused.window_attention import Windows, window_attention
from pipeline.trellis import VoxelGrid
from pipeline.trellis.blocks import PlainBlock
from pipeline.trellis.gaussian_decoder import SLatGaussianDecoder
from pipeline.trellis.layers import FINAL_NORM_EPS, position_embedding


class FusedGaussianDecoder:
    """A gaussian decoder that shares the parameters of an SLatGaussianDecoder."""

    def __init__(self, decoder: SLatGaussianDecoder) -> None:
        """Wrap the decoder's blocks."""
        self._decoder = decoder
        self._blocks = [_FusedBlock(cast(PlainBlock, block)) for block in decoder.blocks]

    def __call__(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """Decode denormalised latents [N, latent_channels] float32 on the voxels of `grid` to raw channels [N, 448]."""
        decoder = self._decoder
        size = decoder.window_size
        layouts = [Windows.of(grid, size, shift) for shift in (0, size // 2)]
        position = position_embedding(grid.positions, decoder.input_layer.out_features)
        h = (decoder.input_layer(x) + position).to(decoder.dtype)
        order, normed = layouts[0].order, Activations(torch.empty_like(h))
        for index, block in enumerate(self._blocks):
            windows = layouts[index % 2]
            # From the order of the grid, and then from that of the other windows.
            h = h[order if index == 0 else layouts[1 - index % 2].place[windows.order]]
            block(h, normed, windows)
        out = add_norm(h, eps=FINAL_NORM_EPS, out=Activations(torch.empty_like(h, dtype=x.dtype)))
        raw: Tensor = decoder.out_layer(out.values)
        return raw[layouts[(len(self._blocks) - 1) % 2].place]


class _FusedBlock:
    def __init__(self, block: PlainBlock) -> None:
        attention = block.attn
        self._heads = attention.heads
        mlp_in, mlp_out = cast(nn.Linear, block.mlp.mlp[0]), cast(nn.Linear, block.mlp.mlp[2])
        layers = (attention.to_qkv, attention.to_out, mlp_in, mlp_out)
        self._qkv, self._out, self._mlp_in, self._mlp_out = (FusedLinear(layer, fp8=False) for layer in layers)
        self._gamma = head_gammas(attention, "qk")

    def __call__(self, h: Tensor, normed: Activations, windows: Windows) -> None:
        """Apply the block to h [N, C] in place; normed is memory for as many rows."""
        qkv = self._qkv.normed_heads(add_norm(h, out=normed), self._gamma)
        y = self._out.add_to(h, Activations(window_attention(qkv, windows, self._heads)))
        add_norm(h, y=y, out=normed)
        y = self._mlp_out.add_to(h, self._mlp_in.apply_with_gelu(normed))
        if y is not None:
            h += y
