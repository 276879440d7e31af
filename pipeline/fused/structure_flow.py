"""The fused structure flow, which is replayed from CUDA graphs, since its shapes never change."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.cache import SamplingCache
from pipeline.fused.graphs import GraphedCallable, GraphPool
from pipeline.fused.transformer import CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Velocities
from pipeline.trellis import SparseStructureFlowModel
from pipeline.trellis.attention import attend
from pipeline.trellis.layers import FINAL_NORM_EPS, patchify, unpatchify

# Contexts in one graph; more would not run faster, and graphs hold memory.
_MAX_BATCH = 2


class FusedStructureFlow:
    """A structure flow for one sample at a time that shares the parameters of a SparseStructureFlowModel."""

    def __init__(self, flow: SparseStructureFlowModel, pool: GraphPool | None, *, fp8: bool = False) -> None:
        """Wrap the network's blocks; graphs are captured in the pool."""
        self._flow = flow
        self._pool = pool
        self._blocks = TransformerBlocks(flow.blocks, fp8=fp8)
        self._graphed: dict[tuple[int, int, int], GraphedCallable] = {}

    def prepare(self, times: Sequence[float], conditions: Conditions) -> Velocities:
        """Return the velocities of x [1, channels, R, R, R] float32 at the given times, under the conditions."""
        cache = SamplingCache(self._flow, self._blocks, times, conditions)

        def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
            results: dict[int, Tensor] = {}
            ordered = cache.tokens_first(indices)
            for start in range(0, len(ordered), _MAX_BATCH):
                part = ordered[start : start + _MAX_BATCH]
                batch = cache.batch(part)
                out = self._graphed_velocity(batch)(x, cache.modulations[step], *batch.keys_values)
                results |= dict(zip(part, out.split(1), strict=True))
            return [results[index] for index in indices]

        return velocities

    def _graphed_velocity(self, batch: CFGBatch) -> GraphedCallable:
        token_contexts, zero_contexts = batch.token_contexts, batch.zero_contexts
        key = (token_contexts, zero_contexts, batch.keys_values[0].shape[1] if token_contexts else 0)
        if key not in self._graphed:
            # The closure has no reference to self, so that the memory of a replaced network is released at once.
            flow, blocks = self._flow, self._blocks

            def run(x: Tensor, modulation: Tensor, *keys_values: Tensor) -> Tensor:
                return _velocity(flow, blocks, x, modulation, CFGBatch(keys_values, token_contexts, zero_contexts))

            self._graphed[key] = GraphedCallable(run, self._pool)
        return self._graphed[key]


def _velocity(
    flow: SparseStructureFlowModel, blocks: TransformerBlocks, x: Tensor, modulation: Tensor, batch: CFGBatch
) -> Tensor:
    """Compute the velocities [batch, out_channels, R, R, R] of x [1, channels, R, R, R]."""
    patches = patchify(x, flow.patch_size)
    tokens = patches.flatten(2).transpose(1, 2)[0]
    h = (flow.input_layer(tokens) + flow.pos_emb).to(flow.dtype)
    h = blocks(h, modulation, batch, attend, len(h)).to(x.dtype)
    out = flow.out_layer(F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)).unflatten(0, (batch.size, -1))
    return unpatchify(out.transpose(1, 2).unflatten(2, patches.shape[2:]), flow.patch_size)
