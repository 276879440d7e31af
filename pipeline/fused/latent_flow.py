"""The fused latent flow over the voxels of one structure."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.attention import flash_attend
from pipeline.fused.cache import SamplingCache
from pipeline.fused.graphs import GraphedCallable, GraphPool
from pipeline.fused.residual import NeighbourMaps, ResidualBlock, pool
from pipeline.fused.transformer import CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Velocities
from pipeline.trellis import SLatFlowModel, VoxelGrid
from pipeline.trellis.layers import FINAL_NORM_EPS, position_embedding
from pipeline.trellis.sparse_blocks import SparseResBlock3d


class FusedLatentFlow:
    """A latent flow for one sample at a time that shares the parameters of an SLatFlowModel."""

    def __init__(self, flow: SLatFlowModel, graph_pool: GraphPool | None, *, fp8: bool = False) -> None:
        """Wrap the network's blocks; graphs are captured in the pool."""
        self._flow = flow
        self._graph_pool = graph_pool
        self._blocks = TransformerBlocks(flow.blocks, fp8=fp8)
        self._input_blocks, self._out_blocks = (
            [ResidualBlock(block) for block in blocks if isinstance(block, SparseResBlock3d)]
            for blocks in (flow.input_blocks, flow.out_blocks)
        )

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
        # Every structure has sizes of its own, so that its graphs serve only its own steps.
        graphed: dict[tuple[int, ...], GraphedCallable] = {}

        def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
            ordered = cache.tokens_first(indices)
            if ordered not in graphed:
                batch = cache.batch(ordered)

                def run(x: Tensor, modulation: Tensor, residual_modulation: Tensor) -> Tensor:
                    return self._velocity(x, maps, positions, modulation, residual_modulation.split(widths), batch)

                graphed[ordered] = GraphedCallable(run, self._graph_pool)
            out = graphed[ordered](x, cache.modulations[step], residual_modulations[step])
            results = dict(zip(ordered, out, strict=True))
            return [results[index] for index in indices]

        return velocities

    def _velocity(
        self, x: Tensor, maps: Sequence[NeighbourMaps], positions: Tensor,
        modulation: Tensor, residual_modulations: Sequence[Tensor], batch: CFGBatch,
    ) -> Tensor:  # fmt: skip
        """Compute the velocities [batch, N, out_channels] of x [N, channels]."""
        flow = self._flow
        padded = F.pad(x, (0, 0, 0, len(maps[0].neighbours) - len(x)))
        h = flow.input_layer(padded).to(flow.dtype)[None]
        level, skips = 0, []
        modulations = iter(residual_modulations)
        # Only the transformer blocks see contexts: up to there, one item stands for the whole batch.
        for block in self._input_blocks:
            if block.resample == "down":
                h = pool(h, maps[level])
                level += 1
            h = block(h, maps[level], next(modulations))
            skips.append(h)
        h = self._blocks(h[0] + positions, modulation, batch, flash_attend, maps[-1].rows)
        h = h.unflatten(0, (batch.size, -1))
        for block in self._out_blocks:
            if flow.use_skip_connection:
                h = torch.cat([h, skips.pop().expand(batch.size, -1, -1)], dim=-1)
            if block.resample == "up":
                level -= 1
            h = block(h, maps[level], next(modulations))
        h = F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)
        velocity: Tensor = flow.out_layer(h.to(x.dtype))
        return velocity[:, : len(x)]
