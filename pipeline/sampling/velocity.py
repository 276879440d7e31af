"""Velocities of the two flow models: an interface, and the plain implementation, which runs anywhere.

Faster implementations are tested against the plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        contexts = _dense_contexts(conditions)

        def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
            time = _model_time(times[step], len(x), x)
            return [self._structure_flow(x, time, contexts[index].expand(len(x), -1, -1)) for index in indices]

        return velocities

    def prepare_latents(self, times: Sequence[float], conditions: Conditions, grid: VoxelGrid) -> Velocities:
        """Return the velocities of x [N, channels] float32 on the N voxels of a grid."""
        contexts = _dense_contexts(conditions)
        batch = grid.samples.count

        def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
            time = _model_time(times[step], batch, x)
            return [self._latent_flow(x, grid, time, contexts[index].expand(batch, -1, -1)) for index in indices]

        return velocities


def _dense_contexts(conditions: Conditions) -> list[Tensor]:
    """Return the contexts with None replaced by tokens of zeros."""
    zeros = torch.zeros_like(next(context for context in conditions.positive if context is not None))
    return [zeros if context is None else context for context in conditions.contexts]


def _model_time(t: float, batch: int, like: Tensor) -> Tensor:
    """Return the time as the networks take it: times 1000, float32, one per batch item."""
    return torch.full((batch,), 1000 * t, dtype=torch.float32, device=like.device)
