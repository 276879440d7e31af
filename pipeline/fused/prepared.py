"""What stays the same for all steps of a sampler: every step's modulation, every context's keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.fused.trunk import CFGBatch, TransformerBlocks
from pipeline.params import Conditions, Context
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel


class StepCache:
    """Computed once for a sampler's times and conditions.

    embedded: [T, C] the embedded times, in the precision of the flow's blocks.
    """

    def __init__(
        self,
        flow: SparseStructureFlowModel | SLatFlowModel,
        trunk: TransformerBlocks,
        times: Sequence[float],
        conditions: Conditions[Context],
    ) -> None:
        model_times = torch.tensor([1000 * t for t in times], dtype=torch.float32, device=flow.out_layer.weight.device)
        self.embedded: Tensor = flow.t_embedder(model_times).to(flow.dtype)
        self._modulations = trunk.modulations(self.embedded)
        self._rows = {t: row for row, t in enumerate(times)}
        contexts = (*conditions.positive, conditions.negative)
        # By identity, which lasts as long as the conditions do.
        self._conditions = conditions
        self._keys_values = {
            id(context): trunk.keys_values(context.to(flow.dtype)) for context in contexts if context is not None
        }
        self._passes: dict[tuple[int, ...], CFGBatch] = {}

    def row(self, t: float) -> int:
        """The place of a time among those prepared for."""
        return self._rows[t]

    def modulation(self, t: float) -> Tensor:
        """[blocks, 6, C], see `TransformerBlocks.modulations`."""
        return self._modulations[self._rows[t]]

    def passes(self, contexts: Sequence[Context]) -> CFGBatch:
        """Those of contexts that are the conditions' own, those of tokens first."""
        key = tuple(map(id, contexts))
        if key not in self._passes:
            real = [self._keys_values[id(context)] for context in contexts if context is not None]
            keys_values = [torch.cat(blocks) for blocks in zip(*real, strict=True)]
            self._passes[key] = CFGBatch(keys_values, len(real), len(contexts) - len(real))
        return self._passes[key]


def tokens_first(contexts: Sequence[Context]) -> list[int]:
    """The places of the contexts, those of tokens before those of zeros."""
    return sorted(range(len(contexts)), key=lambda place: contexts[place] is None)
