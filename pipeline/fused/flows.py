"""The fused implementation of pipeline.sampling.velocity.Flows."""

from collections.abc import Sequence

from pipeline.fused.graphs import GraphPool
from pipeline.fused.latent_flow import FusedLatentFlow
from pipeline.fused.residual import COARSE_BUCKET, FINE_BUCKET
from pipeline.fused.structure_flow import FusedStructureFlow
from pipeline.params import Conditions, Velocities
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid

# Up to 6,144 coarse cells and 24,576 voxels.
_BUCKETS = 24


class FusedFlows:
    """Flows for one sample at a time, since one sample keeps the GPU busy."""

    warm_up_sizes: Sequence[tuple[int, int]] = [(COARSE_BUCKET * n, FINE_BUCKET * n) for n in range(1, _BUCKETS + 1)]

    def __init__(
        self, structure_flow: SparseStructureFlowModel, latent_flow: SLatFlowModel, *, fp8: bool = False
    ) -> None:
        """Share the networks' parameters; fp8: compute the widest products in 8 bits, which is faster and not exact."""
        device = structure_flow.out_layer.weight.device
        pool = GraphPool(device) if device.type == "cuda" else None
        self._structure_flow = FusedStructureFlow(structure_flow, pool, fp8=fp8)
        self._latent_flow = FusedLatentFlow(latent_flow, pool, fp8=fp8)

    def prepare_structure(self, times: Sequence[float], conditions: Conditions) -> Velocities:
        """Return the velocities of x [1, channels, R, R, R] float32 at the given times, under the conditions."""
        return self._structure_flow.prepare(times, conditions)

    def prepare_latents(self, times: Sequence[float], conditions: Conditions, grid: VoxelGrid) -> Velocities:
        """Return the velocities of x [N, channels] float32 on the N voxels of a grid."""
        return self._latent_flow.prepare(times, conditions, grid)
