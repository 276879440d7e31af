"""The structure flow, replayed from CUDA graphs: its shapes never change."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.attention import attend_fixed
from pipeline.fused.graphs import GraphedCallable, GraphMemory
from pipeline.fused.prepared import StepCache, tokens_first
from pipeline.fused.trunk import CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Context, Velocities
from pipeline.trellis import SparseStructureFlowModel
from pipeline.trellis.layers import FINAL_NORM_EPS
from pipeline.trellis.structure_flow import patchify, unpatchify

# Contexts that one graph takes; more would not run faster, and graphs hold memory.
_MAX_PASSES = 2


class StructureSampler:
    """Velocities of one sample at a time."""

    def __init__(self, flow: SparseStructureFlowModel, memory: GraphMemory | None, *, fp8: bool = False) -> None:
        self._flow = flow
        self._memory = memory
        self._trunk = TransformerBlocks(flow.blocks, fp8=fp8)
        self._replayed: dict[tuple[int, int, int], GraphedCallable] = {}

    def prepare(self, times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """Velocities of x [1, channels, R, R, R] float32 at the given times."""
        prepared = StepCache(self._flow, self._trunk, times, conditions)

        def velocities(x: Tensor, t: float, contexts: Sequence[Context]) -> list[Tensor]:
            results: dict[int, Tensor] = {}
            order = tokens_first(contexts)
            for start in range(0, len(order), _MAX_PASSES):
                places = order[start : start + _MAX_PASSES]
                passes = prepared.passes([contexts[place] for place in places])
                found = self._velocities(passes)(x, prepared.modulation(t), *passes.keys_values)
                results |= dict(zip(places, found.split(1), strict=True))
            return [results[place] for place in range(len(contexts))]

        return velocities

    def _velocities(self, passes: CFGBatch) -> GraphedCallable:
        real, zero = passes.real, passes.zero
        key = (real, zero, passes.keys_values[0].shape[1] if real else 0)
        if key not in self._replayed:
            # Without self, so that a swapped network's memory goes with its last reference.
            flow, trunk = self._flow, self._trunk

            def run(x: Tensor, modulation: Tensor, *keys_values: Tensor) -> Tensor:
                return _velocity(flow, trunk, x, modulation, CFGBatch(keys_values, real, zero))

            self._replayed[key] = GraphedCallable(run, self._memory)
        return self._replayed[key]


def _velocity(
    flow: SparseStructureFlowModel, trunk: TransformerBlocks, x: Tensor, modulation: Tensor, passes: CFGBatch
) -> Tensor:
    """x [1, channels, R, R, R] -> [passes, out_channels, R, R, R]."""
    patches = patchify(x, flow.patch_size)
    tokens = patches.flatten(2).transpose(1, 2)[0]
    h = (flow.input_layer(tokens) + flow.pos_emb).to(flow.dtype)
    h = trunk(h, modulation, passes, attend_fixed, len(h)).to(x.dtype)
    out = flow.out_layer(F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)).unflatten(0, (passes.count, -1))
    return unpatchify(out.transpose(1, 2).unflatten(2, patches.shape[2:]), flow.patch_size)
