"""The sparse residual blocks of the latent flow, and the maps that they find neighbours with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.convolution import gather_sum, pack_kernel
from pipeline.fused.norms import add_norm
from pipeline.trellis.sparse_blocks import SparseResBlock3d
from pipeline.trellis.voxels import VoxelGrid

# Multiples that numbers of rows are padded to: at the coarsest level, where nearly all the work is, and at finer ones.
COARSE_BUCKET, FINE_BUCKET = 256, 1024


@dataclass(frozen=True, eq=False)
class NeighbourMaps:
    """Maps between the rows of one level of a single sample's voxel grid, as int32 indices, -1 for none.

    rows: number of voxels. N is larger: the rows after them are padding, which is in no map.
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
    def of(levels: Sequence[VoxelGrid]) -> "list[NeighbourMaps]":
        """Return the maps of a grid and its coarser levels, finest first."""
        sizes = [padded_rows(len(level), coarsest=level is levels[-1]) for level in levels]
        finer = [NeighbourMaps._of_fine(level, *pair) for level, pair in zip(levels, pairwise(sizes), strict=False)]
        return [*finer, NeighbourMaps(len(levels[-1]), _neighbours(levels[-1], sizes[-1]).int())]

    @staticmethod
    def _of_fine(grid: VoxelGrid, size: int, coarse_size: int) -> "NeighbourMaps":
        rows, parent = len(grid), grid.pooling.parent
        neighbours = _neighbours(grid, size)
        from_coarse = torch.where(neighbours < 0, -1, parent[neighbours.clamp(min=0)])
        octant = ((grid.positions % 2) * torch.tensor([4, 2, 1], device=parent.device)).sum(dim=1)
        children = torch.full((coarse_size, 8), -1, dtype=torch.int64, device=parent.device)
        children[parent, octant] = torch.arange(rows, device=parent.device)
        return NeighbourMaps(rows, neighbours.int(), F.pad(parent, (0, size - rows)).int(), children, from_coarse.int())


def padded_rows(rows: int, *, coarsest: bool) -> int:
    """Return the number of rows that a level of `rows` voxels is padded to.

    Libraries choose kernels for each new number of rows, which takes a tenth of the time of a sampler run; padding
    keeps the numbers few.
    """
    bucket = COARSE_BUCKET if coarsest else FINE_BUCKET
    return -(-rows // bucket) * bucket


def _neighbours(grid: VoxelGrid, size: int) -> Tensor:
    neighbours = grid.neighbours.masked_fill(grid.neighbours == len(grid), -1)
    return F.pad(neighbours, (0, 0, 0, size - len(grid)), value=-1)


class ResidualBlock:
    """A sparse residual block that shares the parameters of a SparseResBlock3d."""

    def __init__(self, block: SparseResBlock3d) -> None:
        """Repack the kernels of the block's convolutions."""
        self.resample = block.resample
        self._block = block
        self._kernels = [pack_kernel(conv.conv.weight) for conv in (block.conv1, block.conv2)]

    def modulations(self, time_embeddings: Tensor) -> Tensor:
        """Compute scale and shift [T, 2 * out_channels] of embedded times [T, C]."""
        return self._block.emb_layers(time_embeddings)

    def __call__(self, x: Tensor, maps: NeighbourMaps, modulation: Tensor) -> Tensor:
        """Apply the block to x [B, rows, in_channels]: [B, rows of `maps`, out_channels].

        x is over the level of `maps` or, for "up", over the next coarser one; for "down" it has been pooled before.
        modulation: one of `modulations`, [2 * out_channels].
        """
        block, (first, second) = self._block, self._kernels
        scale, shift = modulation.chunk(2)
        norm, skip = block.norm1, block.skip_connection(x)
        h = add_norm(x.flatten(0, 1), affine=(norm.weight, norm.bias), silu=True).values.view_as(x)
        up = block.resample == "up"
        sources = maps.from_coarse if up else maps.neighbours
        assert sources is not None, "the coarsest level has no coarser one"
        h = gather_sum(F.linear(h, first), sources, block.conv1.conv.bias, modulation=(scale, shift))
        skip_rows = maps.parent if up else None
        return gather_sum(F.linear(h, second), maps.neighbours, block.conv2.conv.bias, skip=skip, skip_rows=skip_rows)


def pool(x: Tensor, maps: NeighbourMaps) -> Tensor:
    """Divide the sum over each coarse voxel's children by their count plus one: x [1, N, C] -> [1, M, C]."""
    children = maps.children
    assert children is not None, "the coarsest level has no coarser one"
    # An index of -1 selects row N, which is zero.
    total = F.pad(x[0], (0, 0, 0, 1))[children].float().sum(dim=1)
    count = (children >= 0).sum(dim=1, keepdim=True)
    return (total / (count + 1)).to(x.dtype)[None]
