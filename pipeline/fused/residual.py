"""The sparse residual blocks around the trunk of the latent flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.fused.convolution import gather_sum, pack_kernel
from pipeline.fused.norms import add_norm
from pipeline.trellis.sparse_blocks import SparseResBlock3d
from pipeline.trellis.voxels import VoxelGrid

Modulation = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tables:
    """What a level of a voxel grid with one sample means for convolutions, as int32 indices, -1 for none.

    neighbours [N, 27]: the row at each kernel offset; parent [N]: the coarse row of each fine row;
    children [M, 8]: the fine rows of each coarse row; from_coarse [N, 27]: the coarse row of the neighbour at each
    offset. The last three lead to the next coarser level and are None on the coarsest.
    """

    neighbours: Tensor
    parent: Tensor | None = None
    children: Tensor | None = None
    from_coarse: Tensor | None = None

    @staticmethod
    def of(grid: VoxelGrid, *, coarsest: bool) -> Tables:
        """The tables of one level."""
        rows = len(grid)
        neighbours = grid.neighbours.masked_fill(grid.neighbours == rows, -1)
        if coarsest:
            return Tables(neighbours.int())
        coarse, parent = grid.pooling
        from_coarse = torch.where(neighbours < 0, -1, parent[neighbours.clamp(min=0)])
        octant = ((grid.positions % 2) * torch.tensor([4, 2, 1], device=parent.device)).sum(dim=1)
        children = torch.full((len(coarse), 8), -1, dtype=torch.int64, device=parent.device)
        children[parent, octant] = torch.arange(rows, device=parent.device)
        return Tables(neighbours.int(), parent.int(), children, from_coarse.int())


class ResidualBlock:
    """Runs a sparse residual block, whose parameters it shares."""

    def __init__(self, block: SparseResBlock3d) -> None:
        self.resample = block.resample
        self._block = block
        self._kernels = [pack_kernel(conv.conv.weight) for conv in (block.conv1, block.conv2)]

    def modulations(self, times: Tensor) -> list[Modulation]:
        """Embedded times [T, C] -> scale and shift, each [out_channels], for each time."""
        return [(scale, shift) for scale, shift in self._block.emb_layers(times).unflatten(-1, (2, -1)).unbind(0)]

    def __call__(self, x: Tensor, tables: Tables, modulation: Modulation) -> Tensor:
        """x [B, rows, in_channels] -> [B, rows of `tables`, out_channels].

        x is over the level of `tables` but for "up", where it is over the next coarser level, and for "down", where
        it is over the next finer one and has been pooled before.
        """
        block, (first, second) = self._block, self._kernels
        norm, skip = block.norm1, block.skip_connection(x)
        h = add_norm(x.flatten(0, 1), affine=(norm.weight, norm.bias), silu=True).values.view_as(x)
        up = block.resample == "up"
        table = tables.from_coarse if up else tables.neighbours
        assert table is not None
        h = gather_sum(F.linear(h, first), table, block.conv1.conv.bias, modulation=modulation)
        return gather_sum(
            F.linear(h, second),
            tables.neighbours,
            block.conv2.conv.bias,
            skip=skip,
            skip_rows=tables.parent if up else None,
        )


def pool(x: Tensor, tables: Tables) -> Tensor:
    """x [1, N, C] -> [1, M, C]: the sum over each coarse voxel's children divided by their count plus one."""
    children = tables.children
    assert children is not None
    # Row N, of zeros, is what -1 leads to.
    total = F.pad(x[0], (0, 0, 0, 1))[children].float().sum(dim=1)
    count = (children >= 0).sum(dim=1, keepdim=True)
    return (total / (count + 1)).to(x.dtype)[None]


def residual_blocks(blocks: nn.ModuleList) -> list[ResidualBlock]:
    """Those of a latent flow's `input_blocks` or `out_blocks`."""
    return [ResidualBlock(block) for block in blocks if isinstance(block, SparseResBlock3d)]
