"""Velocities of the two flow models: an interface, and the plain implementation, which runs anywhere.

Faster implementations are tested against the plain one.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.params import Conditions, Velocities
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid


class Flows(Protocol):
    """The two flow models, ready for sampling; both methods prepare what all steps of a sampler share.

    warm_up_sizes: pairs (coarse cells, voxels), one for each structure size that the implementation treats differently;
    empty if all sizes are alike.
    """

    warm_up_sizes: Sequence[tuple[int, int]]

    def prepare_structure(self, times: Sequence[float], conditions: Conditions) -> Velocities:
        """Return the velocities of x [B, channels, R, R, R] float32 at the given times, under the conditions."""

    def prepare_latents(self, times: Sequence[float], conditions: Conditions, grid: VoxelGrid) -> Velocities:
        """Return the velocities of x [N, channels] float32 on the N voxels of a grid."""


class PlainFlows:
    """Flows that call the networks as they are, once for each context, for any number of samples."""

    warm_up_sizes: Sequence[tuple[int, int]] = ()

    def __init__(self, structure_flow: SparseStructureFlowModel, latent_flow: SLatFlowModel) -> None:
        """Take the networks of a checkpoint."""
        self._structure_flow = structure_flow
        self._latent_flow = latent_flow

    def prepare_structure(self, times: Sequence[float], conditions: Conditions) -> Velocities:
        """Return the velocities of x [B, channels, R, R, R] float32 at the given times, under the conditions."""
        return _velocities(self._structure_flow, times, conditions)

    def prepare_latents(self, times: Sequence[float], conditions: Conditions, grid: VoxelGrid) -> Velocities:
        """Return the velocities of x [N, channels] float32 on the N voxels of a grid."""
        flow = self._latent_flow
        return _velocities(lambda x, time, context: flow(x, grid, time, context), times, conditions, grid.samples.count)


def _velocities(
    flow: Callable[[Tensor, Tensor, Tensor], Tensor], times: Sequence[float], conditions: Conditions, batch: int = 0
) -> Velocities:
    """Return the velocities of a flow (x, time, context); with a `batch` of 0, x has a row for each batch item."""
    # Tokens that are all zero are None.
    zeros = torch.zeros_like(next(context for context in conditions.positive if context is not None))
    contexts = [zeros if context is None else context for context in conditions.contexts]

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        count = batch or len(x)
        time = torch.full((count,), 1000 * times[step], dtype=torch.float32, device=x.device)
        return [flow(x, time, contexts[index].expand(count, -1, -1)) for index in indices]

    return velocities
