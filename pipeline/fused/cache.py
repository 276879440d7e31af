"""Tensors that all steps of a sampler share: every step's modulation, every context's keys and values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.fused.transformer import CFGBatch, TransformerBlocks
from pipeline.params import Conditions
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel


class SamplingCache:
    """A cache for one run of a sampler, computed from its times and conditions.

    time_embeddings: [T, C], in the precision of the flow's blocks.
    modulations: [T, blocks, 6, C], see `TransformerBlocks.modulations`.
    """

    def __init__(
        self, flow: SparseStructureFlowModel | SLatFlowModel, blocks: TransformerBlocks,
        times: Sequence[float], conditions: Conditions,
    ) -> None:  # fmt: skip
        """Compute the modulations of all times and the keys and values of all contexts."""
        model_times = torch.tensor([1000 * t for t in times], dtype=torch.float32, device=flow.out_layer.weight.device)
        self.time_embeddings: Tensor = flow.t_embedder(model_times).to(flow.dtype)
        self.modulations = blocks.modulations(self.time_embeddings)
        self._keys_values = [
            None if context is None else blocks.keys_values(context.to(flow.dtype)) for context in conditions.contexts
        ]
        self._batches: dict[tuple[int, ...], CFGBatch] = {}

    def tokens_first(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Sort indices of contexts into those of tokens, then those of zeros, as a batch needs them."""
        return tuple(sorted(indices, key=lambda index: self._keys_values[index] is None))

    def batch(self, indices: tuple[int, ...]) -> CFGBatch:
        """Return the batch of some contexts, which are sorted by `tokens_first`."""
        if indices not in self._batches:
            tokens = [blocks for blocks in (self._keys_values[index] for index in indices) if blocks is not None]
            several = len(tokens) > 1
            keys_values = [torch.cat(same) if several else same[0] for same in zip(*tokens, strict=True)]
            self._batches[indices] = CFGBatch(keys_values, len(tokens), len(indices) - len(tokens))
        return self._batches[indices]
