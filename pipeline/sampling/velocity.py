"""How the samplers call the flow models: the plain way, which runs anywhere and which faster ways are tested against.

A context is the tokens [1, S, C] that a velocity is conditioned on, or None for tokens that are all zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.params import Conditions, Context, Velocities
from pipeline.trellis import SLatFlowModel, SparseStructureFlowModel, VoxelGrid


class Flows(Protocol):
    """The two flow models, ready to be sampled; both methods prepare what stays the same for all steps of a sampler.

    times: the times at which velocities will be asked for. batched: whether x may hold several samples.
    sizes: numbers of coarse cells and of voxels that structures are filled up to, the next larger one each; empty if
    one size is as good as another.
    """

    batched: bool
    sizes: Sequence[tuple[int, int]]

    def structure(self, times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """Velocities of x [B, channels, R, R, R] float32."""

    def latents(self, times: Sequence[float], conditions: Conditions[Context], grid: VoxelGrid) -> Velocities[Context]:
        """Velocities of x [N, channels] float32 on the N voxels of a grid."""


class PlainFlows:
    """Calls the networks as they are, once for each context."""

    batched = True
    sizes: Sequence[tuple[int, int]] = ()

    def __init__(self, structure_flow: SparseStructureFlowModel, latent_flow: SLatFlowModel) -> None:
        self._structure_flow = structure_flow
        self._latent_flow = latent_flow

    def structure(self, _times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """See Flows."""
        zeros = _zeros(conditions)

        def velocities(x: Tensor, t: float, contexts: Sequence[Context]) -> list[Tensor]:
            time = _model_time(t, len(x), x)
            return [self._structure_flow(x, time, _expanded(context, zeros, len(x))) for context in contexts]

        return velocities

    def latents(self, _times: Sequence[float], conditions: Conditions[Context], grid: VoxelGrid) -> Velocities[Context]:
        """See Flows."""
        zeros = _zeros(conditions)
        batch = grid.samples.count

        def velocities(x: Tensor, t: float, contexts: Sequence[Context]) -> list[Tensor]:
            time = _model_time(t, batch, x)
            return [self._latent_flow(x, grid, time, _expanded(context, zeros, batch)) for context in contexts]

        return velocities


def _zeros(conditions: Conditions[Context]) -> Tensor:
    return torch.zeros_like(next(context for context in conditions.positive if context is not None))


def _expanded(context: Context, zeros: Tensor, batch: int) -> Tensor:
    return (zeros if context is None else context).expand(batch, -1, -1)


def _model_time(t: float, batch: int, like: Tensor) -> Tensor:
    """Time as the networks take it: times 1000, float32, one per batch item."""
    return torch.full((batch,), 1000 * t, dtype=torch.float32, device=like.device)
