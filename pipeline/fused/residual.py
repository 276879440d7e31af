"""The sparse residual blocks around the trunk of the latent flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.fused.convolution import gather_sum, pack_kernel
from pipeline.fused.norms import add_norm
from pipeline.trellis.sparse_blocks import SparseResBlock3d
from pipeline.trellis.voxels import VoxelGrid

# Scale and shift, each [out_channels].
Modulation = tuple[Tensor, Tensor]
# Rows of the coarsest level, where nearly all the work is, and of those that are finer.
COARSE_BUCKET, FINE_BUCKET = 256, 1024


@dataclass(frozen=True, eq=False)
class NeighbourMaps:
    """What a level of a voxel grid with one sample means for convolutions, as int32 indices, -1 for none.

    rows: how many there are; N is a few more, and those behind them are nobody's neighbours, parents or children.
    neighbours [N, 27]: the row at each kernel offset; parent [N]: the coarse row of each fine row;
    children [M, 8]: the fine rows of each coarse row; from_coarse [N, 27]: the coarse row of the neighbour at each
    offset. The last three lead to the next coarser level and are None on the coarsest.
    """

    rows: int
    neighbours: Tensor
    parent: Tensor | None = None
    children: Tensor | None = None
    from_coarse: Tensor | None = None

    @staticmethod
    def of(levels: Sequence[VoxelGrid]) -> list[NeighbourMaps]:
        """Those of a grid and its coarser levels, finest first."""
        sizes = [bucket(len(level), coarsest=level is levels[-1]) for level in levels]
        finer = [NeighbourMaps._of(level, *pair) for level, pair in zip(levels, pairwise(sizes), strict=False)]
        return [*finer, NeighbourMaps(len(levels[-1]), _neighbours(levels[-1], sizes[-1]).int())]

    @staticmethod
    def _of(grid: VoxelGrid, size: int, coarse_size: int) -> NeighbourMaps:
        rows, parent = len(grid), grid.pooling.parent
        neighbours = _neighbours(grid, size)
        from_coarse = torch.where(neighbours < 0, -1, parent[neighbours.clamp(min=0)])
        octant = ((grid.positions % 2) * torch.tensor([4, 2, 1], device=parent.device)).sum(dim=1)
        children = torch.full((coarse_size, 8), -1, dtype=torch.int64, device=parent.device)
        children[parent, octant] = torch.arange(rows, device=parent.device)
        return NeighbourMaps(rows, neighbours.int(), F.pad(parent, (0, size - rows)).int(), children, from_coarse.int())


def bucket(rows: int, *, coarsest: bool) -> int:
    """The number of rows that `rows` of a level are filled up to.

    Libraries choose their kernels anew for each number of rows, which takes them a tenth of a sampling; so there are
    few.
    """
    step = COARSE_BUCKET if coarsest else FINE_BUCKET
    return -(-rows // step) * step


def _neighbours(grid: VoxelGrid, size: int) -> Tensor:
    neighbours = grid.neighbours.masked_fill(grid.neighbours == len(grid), -1)
    return F.pad(neighbours, (0, 0, 0, size - len(grid)), value=-1)


class ResidualBlock:
    """Runs a sparse residual block, whose parameters it shares."""

    def __init__(self, block: SparseResBlock3d) -> None:
        self.resample = block.resample
        self._block = block
        self._kernels = [pack_kernel(conv.conv.weight) for conv in (block.conv1, block.conv2)]

    def modulations(self, times: Tensor) -> Tensor:
        """Embedded times [T, C] -> scale and shift [T, 2 * out_channels]."""
        found: Tensor = self._block.emb_layers(times)
        return found

    def __call__(self, x: Tensor, tables: NeighbourMaps, modulation: Modulation) -> Tensor:
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


def pool(x: Tensor, tables: NeighbourMaps) -> Tensor:
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
