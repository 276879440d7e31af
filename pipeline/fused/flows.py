"""The fused way to call the flow models."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.flows import Context
from pipeline.fused.latents import LatentSampler
from pipeline.fused.structure import StructureSampler
from pipeline.sampling import Conditions, Velocities
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid


class FusedFlows:
    """See pipeline.flows.Flows; one sample at a time, since one fills the GPU."""

    batched = False

    def __init__(
        self, structure_flow: SparseStructureFlowModel, latent_flow: SLatFlowModel, *, fp8: bool = False
    ) -> None:
        """fp8: the widest products of the trunks with 8-bit floats, which is faster and not exact."""
        self._structure = StructureSampler(structure_flow, fp8=fp8)
        self._latents = LatentSampler(latent_flow, fp8=fp8)

    def structure(self, times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """See Flows."""
        return self._structure.prepare(times, conditions)

    def latents(self, times: Sequence[float], conditions: Conditions[Context], grid: VoxelGrid) -> Velocities[Context]:
        """See Flows."""
        return self._latents.prepare(times, conditions, grid)
