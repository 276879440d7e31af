"""The convolution and the residual block over occupied voxels."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.layers import BLOCK_NORM_EPS, layer_norm, modulate
from pipeline.trellis.voxels import VoxelGrid, downsample, upsample

# Upper bound of the numbers that are gathered at a time; rows are processed in parts to stay below it.
_GATHERED_ELEMENTS = 2**26


class _Kernel(nn.Module):
    """The weight [out, 3, 3, 3, in] and bias [out] of a sparse convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))


class SparseConv3d(nn.Module):
    """A submanifold 3x3x3 convolution: output voxels are the input voxels, missing neighbours count as zero."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create uninitialised parameters."""
        super().__init__()
        self.conv = _Kernel(in_channels, out_channels)

    def forward(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """Convolve x [N, in_channels] on the voxels of `grid`: [N, out_channels], of x's dtype."""
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        # A last row of zeros stands for all missing neighbours. As padding it has no gradient, which a GPU would
        # have to add up serially.
        padded = F.pad(x, (0, 0, 0, 1))
        rows = max(1, _GATHERED_ELEMENTS // weight.shape[1])
        parts = [F.embedding(part, padded, padding_idx=len(x)) for part in grid.neighbours.split(rows)]
        return torch.cat([F.linear(part.flatten(1), weight, bias) for part in parts])


class SparseResBlock3d(nn.Module):
    """A residual block of two sparse convolutions, modulated by time, optionally after a change of resolution."""

    def __init__(
        self, in_channels: int, time_channels: int, out_channels: int, resample: Literal["down", "up"] | None = None
    ) -> None:
        """Create the layers, named as in the public checkpoints."""
        super().__init__()
        self.resample = resample
        self.norm1 = nn.LayerNorm(in_channels, eps=BLOCK_NORM_EPS)
        self.conv1 = SparseConv3d(in_channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, 2 * out_channels))
        self.skip_connection = nn.Linear(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, grid: VoxelGrid, time: Tensor) -> Tensor:
        """Apply the block to x over `grid` (for "up": over its next coarser level) with time [B, time_channels].

        Returns [M, out_channels] over `grid` or, for "down", over its next coarser level.
        """
        if self.resample == "down":
            x, grid = downsample(x, grid.pooling), grid.pooling.coarse
        elif self.resample == "up":
            x = upsample(x, grid.pooling)
        scale, shift = grid.samples.broadcast(self.emb_layers(time)).chunk(2, dim=-1)
        h = self.conv1(F.silu(layer_norm(x, self.norm1)), grid)
        h = self.conv2(F.silu(modulate(layer_norm(h), shift, scale)), grid)
        return h + self.skip_connection(x)
