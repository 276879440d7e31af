"""The fused way to call the flow models."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.fused.graphs import GraphMemory
from pipeline.fused.latents import LatentSampler
from pipeline.fused.residual import COARSE_BUCKET, FINE_BUCKET
from pipeline.fused.structure import StructureSampler
from pipeline.params import Conditions, Context, Velocities
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid

# Up to 6,144 cells and 24,576 voxels.
_BUCKETS = 24


class FusedFlows:
    """See pipeline.sampling.velocity.Flows; one sample at a time, since one fills the GPU."""

    batched = False
    sizes: Sequence[tuple[int, int]] = [(COARSE_BUCKET * n, FINE_BUCKET * n) for n in range(1, _BUCKETS + 1)]

    def __init__(
        self, structure_flow: SparseStructureFlowModel, latent_flow: SLatFlowModel, *, fp8: bool = False
    ) -> None:
        """fp8: the widest products of the trunks with 8-bit floats, which is faster and not exact."""
        device = structure_flow.out_layer.weight.device
        memory = GraphMemory(device) if device.type == "cuda" else None
        self._structure = StructureSampler(structure_flow, memory, fp8=fp8)
        self._latents = LatentSampler(latent_flow, memory, fp8=fp8)

    def structure(self, times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """See Flows."""
        return self._structure.prepare(times, conditions)

    def latents(self, times: Sequence[float], conditions: Conditions[Context], grid: VoxelGrid) -> Velocities[Context]:
        """See Flows."""
        return self._latents.prepare(times, conditions, grid)
