"""The fused structure flow, which is replayed from CUDA graphs, since its shapes never change."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pipeline.fused.activations import Activations
from pipeline.fused.attention import flash_attend
from pipeline.fused.cache import SamplingCache
from pipeline.fused.graphs import GraphedCallable, GraphPool, StaticTensors
from pipeline.fused.norms import add_norm
from pipeline.fused.transformer import AttentionKernels, CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Velocities
from pipeline.trellis import SparseStructureFlowModel
from pipeline.trellis.attention import attend
from pipeline.trellis.layers import FINAL_NORM_EPS, patchify, unpatchify

# Contexts in one graph; more would not run faster, and graphs hold memory.
_MAX_BATCH = 2
# torch chooses cuDNN's kernel, the fastest for so many keys; for those of a context, ours is.
_ATTENTION = AttentionKernels(attend, flash_attend)


class FusedStructureFlow:
    """A structure flow for one sample at a time that shares the parameters of a SparseStructureFlowModel."""

    def __init__(self, flow: SparseStructureFlowModel, pool: GraphPool | None, *, fp8: bool = False) -> None:
        """Wrap the network's blocks; graphs are captured in the pool."""
        self._flow = flow
        self._pool = pool
        self._blocks = TransformerBlocks(flow.blocks, fp8=fp8)
        self._static = StaticTensors()
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
                keys_values = self._static.load(batch.keys_values)
                out = self._graphed_velocity(replace(batch, keys_values=keys_values))(x, cache.modulations[step])
                results |= dict(zip(part, out.clone().split(1), strict=True))
            return [results[index] for index in indices]

        return velocities

    def _graphed_velocity(self, batch: CFGBatch) -> GraphedCallable:
        key = (batch.token_contexts, batch.zero_contexts, batch.tokens)
        if key not in self._graphed:
            # The closure has no reference to self, so that the memory of a replaced network is released at once.
            run = partial(_velocity, self._flow, self._blocks, batch)
            self._graphed[key] = GraphedCallable(run, self._pool)
        return self._graphed[key]


def _velocity(
    flow: SparseStructureFlowModel, blocks: TransformerBlocks, batch: CFGBatch, x: Tensor, modulation: Tensor
) -> Tensor:
    """Compute the velocities [batch, out_channels, R, R, R] of x [1, channels, R, R, R]."""
    patches = patchify(x, flow.patch_size)
    tokens = flow.input_layer(patches.flatten(2).transpose(1, 2)[0])
    h = torch.empty(batch.size * len(tokens), tokens.shape[1], dtype=flow.dtype, device=x.device)
    h[: len(tokens)] = tokens + flow.pos_emb
    blocks(h, modulation, batch, _ATTENTION)
    normed = add_norm(h, eps=FINAL_NORM_EPS, out=Activations(torch.empty_like(h, dtype=x.dtype)))
    out: Tensor = flow.out_layer(normed.values).unflatten(0, (batch.size, -1))
    return unpatchify(out.transpose(1, 2).unflatten(2, patches.shape[2:]), flow.patch_size)
