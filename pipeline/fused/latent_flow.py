"""The fused latent flow over the voxels of one structure."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.attention import flash_attend
from pipeline.fused.cache import SamplingCache
from pipeline.fused.graphs import GraphedCallable, GraphPool, StaticTensors
from pipeline.fused.residual import NeighbourMaps, ResidualBlock, pool
from pipeline.fused.transformer import AttentionKernels, CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Velocities
from pipeline.trellis import SLatFlowModel, VoxelGrid
from pipeline.trellis.layers import FINAL_NORM_EPS, position_embedding
from pipeline.trellis.sparse_blocks import SparseResBlock3d

# Graphs that are kept, one for each number of rows and combination of contexts; the oldest goes first.
_MAX_GRAPHS = 96


class FusedLatentFlow:
    """A latent flow for one sample at a time that shares the parameters of an SLatFlowModel.

    Its transformer blocks, nearly all the work, are replayed from CUDA graphs, which serve every structure of as many
    rows, once padded.
    """

    def __init__(self, flow: SLatFlowModel, graph_pool: GraphPool | None, *, fp8: bool = False) -> None:
        """Wrap the network's blocks; graphs are captured in the pool."""
        self._flow = flow
        self._graph_pool = graph_pool
        self._blocks = TransformerBlocks(flow.blocks, fp8=fp8)
        self._input_blocks, self._out_blocks = (
            [ResidualBlock(block) for block in blocks if isinstance(block, SparseResBlock3d)]
            for blocks in (flow.input_blocks, flow.out_blocks)
        )
        self._static = StaticTensors()
        # With the rows that a graph transforms in place, which are the first of `_rows`, unless that was made longer.
        self._graphed: dict[tuple[int, int, int, int], tuple[GraphedCallable, Tensor]] = {}
        self._rows = torch.empty(0, self._blocks.channels, dtype=flow.dtype, device=flow.out_layer.weight.device)

    def prepare(self, times: Sequence[float], conditions: Conditions, grid: VoxelGrid) -> Velocities:
        """Return the velocities of x [N, channels] float32 on the N voxels of a grid, at the given times."""
        flow = self._flow
        levels = [grid]
        for block in self._input_blocks:
            if block.resample == "down":
                levels.append(levels[-1].pooling.coarse)
        maps = NeighbourMaps.of(levels)
        positions = position_embedding(levels[-1].positions, self._blocks.channels).to(flow.dtype)
        positions = F.pad(positions, (0, 0, 0, len(maps[-1].neighbours) - len(positions)))
        cache = SamplingCache(flow, self._blocks, times, conditions)
        per_block = [block.modulations(cache.time_embeddings) for block in (*self._input_blocks, *self._out_blocks)]
        widths = [modulations.shape[1] for modulations in per_block]
        residual_modulations = torch.cat(per_block, dim=1)
        count = torch.tensor([maps[-1].rows], dtype=torch.int32, device=grid.coords.device)

        def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
            ordered = cache.tokens_first(indices)
            modulations = cache.modulations[step], residual_modulations[step].split(widths)
            out = self._velocity(x, maps, positions, count, modulations, cache.batch(ordered))
            results = dict(zip(ordered, out, strict=True))
            return [results[index] for index in indices]

        return velocities

    def _velocity(
        self, x: Tensor, maps: Sequence[NeighbourMaps], positions: Tensor, count: Tensor,
        modulations: tuple[Tensor, Sequence[Tensor]], batch: CFGBatch,
    ) -> Tensor:  # fmt: skip
        """Compute the velocities [batch, N, out_channels] of x [N, channels].

        count: [1] int32, the rows of the coarsest level that are no padding; modulations: the transformer blocks' and
        those of each residual block.
        """
        flow = self._flow
        padded = F.pad(x, (0, 0, 0, len(maps[0].neighbours) - len(x)))
        h = flow.input_layer(padded).to(flow.dtype)[None]
        level, skips = 0, []
        residual_modulations = iter(modulations[1])
        # Only the transformer blocks see contexts: up to there, one item stands for the whole batch.
        for block in self._input_blocks:
            if block.resample == "down":
                h = pool(h, maps[level])
                level += 1
            h = block(h, maps[level], next(residual_modulations))
            skips.append(h)
        h = self._transform(h[0], positions, count, modulations[0], batch).unflatten(0, (batch.size, -1))
        for block in self._out_blocks:
            if flow.use_skip_connection:
                h = torch.cat([h, skips.pop().expand(batch.size, -1, -1)], dim=-1)
            if block.resample == "up":
                level -= 1
            h = block(h, maps[level], next(residual_modulations))
        h = F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)
        velocity: Tensor = flow.out_layer(h.to(x.dtype))
        return velocity[:, : len(x)]

    def _transform(self, h: Tensor, positions: Tensor, count: Tensor, modulation: Tensor, batch: CFGBatch) -> Tensor:
        """Apply the transformer blocks to h + positions [M, C]: [batch * M, C], which the next call overwrites."""
        rows = len(h)
        key = (rows, batch.token_contexts, batch.zero_contexts, batch.tokens)
        count, *keys_values = self._static.load([count, *batch.keys_values])
        if key not in self._graphed:
            if len(self._graphed) == _MAX_GRAPHS:
                del self._graphed[next(iter(self._graphed))]
            if len(self._rows) < batch.size * rows:
                self._rows = self._rows.new_empty(batch.size * rows, self._blocks.channels)
            x, static_batch = self._rows[: batch.size * rows], replace(batch, keys_values=keys_values)
            attention = AttentionKernels(partial(flash_attend, count=count), flash_attend)
            # Nothing refers to self, so that the memory of a replaced network is released at once.
            run = partial(_transform_in_place, self._blocks, x, static_batch, attention)
            self._graphed[key] = GraphedCallable(run, self._graph_pool), x
        graphed, x = self._graphed[key]
        torch.add(h, positions, out=x[:rows])
        return graphed(modulation)


def _transform_in_place(
    blocks: TransformerBlocks, x: Tensor, batch: CFGBatch, attention: AttentionKernels, modulation: Tensor
) -> Tensor:
    blocks(x, modulation, batch, attention)
    return x
