"""What stays the same for all steps of a sampler: every step's modulation, every context's keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.flows import Context
from pipeline.fused.trunk import Trunk
from pipeline.sampling import Conditions
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel


class Prepared:
    """Computed once for a sampler's times and conditions.

    embedded: [T, C] the embedded times, in the precision of the flow's blocks.
    """

    def __init__(
        self,
        flow: SparseStructureFlowModel | SLatFlowModel,
        trunk: Trunk,
        times: Sequence[float],
        conditions: Conditions[Context],
    ) -> None:
        model_times = torch.tensor([1000 * t for t in times], dtype=torch.float32, device=flow.out_layer.weight.device)
        self.embedded: Tensor = flow.t_embedder(model_times).to(flow.dtype)
        self._modulations = trunk.modulations(self.embedded)
        self._rows = {t: row for row, t in enumerate(times)}
        contexts = (*conditions.positive, conditions.negative)
        self._keys_values = [
            (context, trunk.keys_values(context.to(flow.dtype))) for context in contexts if context is not None
        ]

    def row(self, t: float) -> int:
        """The place of a time among those prepared for."""
        return self._rows[t]

    def modulation(self, t: float) -> Tensor:
        """[blocks, 6, C], see `Trunk.modulations`."""
        return self._modulations[self._rows[t]]

    def keys_values(self, context: Tensor) -> list[Tensor]:
        """For each block [1, S, 2, heads, dim]; the context is one of the conditions' own."""
        return next(prepared for known, prepared in self._keys_values if known is context)


def tokens_first(contexts: Sequence[Context]) -> list[int]:
    """The places of the contexts, those of tokens before those of zeros."""
    return sorted(range(len(contexts)), key=lambda place: contexts[place] is None)
