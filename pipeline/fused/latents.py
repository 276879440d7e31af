"""The latent flow over the voxels of one structure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.attention import attend
from pipeline.fused.graphs import GraphedCallable, GraphMemory
from pipeline.fused.prepared import StepCache, tokens_first
from pipeline.fused.residual import Modulation, NeighbourMaps, pool, residual_blocks
from pipeline.fused.trunk import CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Context, Velocities
from pipeline.trellis import SLatFlowModel, VoxelGrid
from pipeline.trellis.layers import FINAL_NORM_EPS, position_embedding


class LatentSampler:
    """Velocities of one sample at a time."""

    def __init__(self, flow: SLatFlowModel, memory: GraphMemory | None, *, fp8: bool = False) -> None:
        self._flow = flow
        self._memory = memory
        self._trunk = TransformerBlocks(flow.blocks, fp8=fp8)
        self._input_blocks = residual_blocks(flow.input_blocks)
        self._out_blocks = residual_blocks(flow.out_blocks)

    def prepare(self, times: Sequence[float], conditions: Conditions[Context], grid: VoxelGrid) -> Velocities[Context]:
        """Velocities of x [N, channels] float32 on the N voxels of a grid, at the given times."""
        flow, trunk = self._flow, self._trunk
        levels = [grid]
        for block in self._input_blocks:
            if block.resample == "down":
                levels.append(levels[-1].pooling.coarse)
        tables = NeighbourMaps.of(levels)
        positions = position_embedding(levels[-1].positions, trunk.channels).to(flow.dtype)
        positions = F.pad(positions, (0, 0, 0, len(tables[-1].neighbours) - len(positions)))
        prepared = StepCache(flow, trunk, times, conditions)
        residual = [block.modulations(prepared.embedded) for block in (*self._input_blocks, *self._out_blocks)]
        widths = [steps.shape[1] for steps in residual]
        by_time = torch.cat(residual, dim=1)
        # Every structure has sizes of its own, so its graphs serve its own steps only.
        replayed: dict[tuple[int, ...], GraphedCallable] = {}

        def velocities(x: Tensor, t: float, contexts: Sequence[Context]) -> list[Tensor]:
            order = tokens_first(contexts)
            key = tuple(id(contexts[place]) for place in order)
            if key not in replayed:
                passes = prepared.passes([contexts[place] for place in order])

                def run(x: Tensor, modulation: Tensor, residual: Tensor) -> Tensor:
                    modulations = [
                        (scale, shift) for scale, shift in (part.chunk(2) for part in residual.split(widths))
                    ]
                    return self._velocity(x, tables, positions, modulation, modulations, passes)

                replayed[key] = GraphedCallable(run, self._memory)
            found = replayed[key](x, prepared.modulation(t), by_time[prepared.row(t)])
            results = dict(zip(order, found, strict=True))
            return [results[place] for place in range(len(contexts))]

        return velocities

    def _velocity(
        self,
        x: Tensor,
        tables: Sequence[NeighbourMaps],
        positions: Tensor,
        modulation: Tensor,
        residual: Sequence[Modulation],
        passes: CFGBatch,
    ) -> Tensor:
        """x [N, channels] -> [passes, N, out_channels]."""
        flow = self._flow
        filled = F.pad(x, (0, 0, 0, len(tables[0].neighbours) - len(x)))
        h = flow.input_layer(filled).to(flow.dtype)[None]
        level, skips = 0, []
        modulations = iter(residual)
        # Contexts enter in the trunk only: up to there, all passes are the same.
        for block in self._input_blocks:
            if block.resample == "down":
                h = pool(h, tables[level])
                level += 1
            h = block(h, tables[level], next(modulations))
            skips.append(h)
        h = self._trunk(h[0] + positions, modulation, passes, attend, tables[-1].rows).unflatten(0, (passes.count, -1))
        for block in self._out_blocks:
            if flow.use_skip_connection:
                h = torch.cat([h, skips.pop().expand(passes.count, -1, -1)], dim=-1)
            if block.resample == "up":
                level -= 1
            h = block(h, tables[level], next(modulations))
        h = F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)
        velocity: Tensor = flow.out_layer(h.to(x.dtype))
        return velocity[:, : len(x)]
