"""The networks of one checkpoint at work: conditions and noise in, splats out. No prompts and no seeds here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.compute import ComputeConfig
from pipeline.errors import NonFiniteOutput
from pipeline.params import Conditions, Context, SamplerParams, Velocities
from pipeline.sampling.euler import euler_steps, schedule
from pipeline.sampling.velocity import Flows, PlainFlows
from pipeline.splats.splats import Splats
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import Checkpoint
from pipeline.trellis.gaussians import to_gaussians, to_splats

# Called after each sampler step with the number of steps done.
OnSamplerStep = Callable[[int], None]

# Attention for the windows of a structure, whose numbers and lengths are always new: cuDNN takes a tenth of a second to
# plan for them.
_UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Guided steps and unguided ones, two of each, since fused flows run a step the first time and record it the second.
REHEARSAL = SamplerParams(steps=4, cfg_strength=1.0, cfg_interval=(0.6, 1.0))
# Cells of two voxels along each axis of a structure.
_CELLS = 32


def _unwatched(_done: int) -> None:
    """The OnSamplerStep for when nobody watches."""


class Engine:
    """Samples and decodes with one checkpoint; noise comes from the caller and may lie on any device."""

    def __init__(self, checkpoint: Checkpoint, compute: ComputeConfig) -> None:
        self.checkpoint = checkpoint
        self.device = compute.device
        self.flows = _flows(checkpoint, compute)

    @property
    def structure_shape(self) -> tuple[int, ...]:
        """Shape of the structure sampler's noise: channels, then the cells along x, y and z."""
        flow = self.checkpoint.structure_flow
        return (flow.in_channels, *[flow.resolution] * 3)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents' noise."""
        return self.checkpoint.latent_flow.in_channels

    def sample_structure(
        self, conditions: Conditions[Context], params: SamplerParams, noise: Tensor, on_step: OnSamplerStep = _unwatched
    ) -> Tensor:
        """noise [B, *structure_shape] -> a latent grid of the same shape, on the engine's device."""
        velocities = self.flows.structure(schedule(params.steps, params.rescale_t), conditions)
        return self._sample(velocities, conditions, params, noise, on_step)

    def decode_structure(self, sample: Tensor) -> Tensor:
        """Latent grid [B, *structure_shape] -> occupancy logits [B, 1, R, R, R]."""
        logits: Tensor = self.checkpoint.structure_decoder(sample)
        return logits

    def sample_latents(
        self,
        conditions: Conditions[Context],
        params: SamplerParams,
        grid: VoxelGrid,
        noise: Tensor,
        on_step: OnSamplerStep = _unwatched,
    ) -> Tensor:
        """noise [N, latent_channels] on the N voxels of a grid -> latents, denormalised, of the same shape."""
        velocities = self.flows.latents(schedule(params.steps, params.rescale_t), conditions, grid)
        sample = self._sample(velocities, conditions, params, noise, on_step)
        return sample * self.checkpoint.latent_std + self.checkpoint.latent_mean

    def decode_latents(self, latents: Tensor, grid: VoxelGrid) -> Splats:
        """latents [N, latent_channels] on the N voxels of a grid -> splats, voxel by voxel.

        Raises NonFiniteOutput.
        """
        decoder = self.checkpoint.gaussian_decoder
        with sdpa_kernel(_UNPLANNED):
            raw: Tensor = decoder(latents, grid)
        if not bool(raw.isfinite().all()):
            raise NonFiniteOutput("the gaussian decoder returned NaN or infinity; try precision: float32")
        return to_splats(to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config))

    @torch.inference_mode()
    def rehearse(self, conditions: Conditions[Context]) -> None:
        """Sample latents in a few steps on structures of all sizes that the flows tell apart.

        Libraries choose and load their kernels by size; without this, the first structure of a new size takes longer.
        """
        # The largest first, whose memory then serves the others.
        for cells, voxels in sorted(self.flows.sizes, reverse=True):
            grid = _structure_of(cells, voxels, self.device)
            latents = self.sample_latents(conditions, REHEARSAL, grid, torch.zeros(len(grid), self.latent_channels))
            with suppress(NonFiniteOutput):
                self.decode_latents(latents, grid)
        if self.device.type == "cuda":
            # Torch would keep memory for each size that was met.
            torch.cuda.empty_cache()

    def _sample(
        self,
        velocities: Velocities[Context],
        conditions: Conditions[Context],
        params: SamplerParams,
        noise: Tensor,
        on_step: OnSamplerStep,
    ) -> Tensor:
        x = noise.to(self.device)
        for step in euler_steps(velocities, x, conditions, params):
            x = step.x_next
            on_step(step.index + 1)
        return x


def _structure_of(cells: int, voxels: int, device: torch.device) -> VoxelGrid:
    """So many voxels, spread evenly over so many cells of twice their size, at most eight in each."""
    number = torch.arange(voxels, device=device)
    cell, child = number % cells, number // cells
    corner = torch.stack([cell // _CELLS**2, cell // _CELLS % _CELLS, cell % _CELLS], dim=1)
    return VoxelGrid.of([2 * corner + torch.stack([child // 4, child // 2 % 2, child % 2], dim=1)])


def _flows(checkpoint: Checkpoint, compute: ComputeConfig) -> Flows:
    if compute.fused:
        # Imported only here, since its kernels need Triton.
        from pipeline.fused.flows import FusedFlows

        return FusedFlows(checkpoint.structure_flow, checkpoint.latent_flow, fp8=compute.fp8)
    return PlainFlows(checkpoint.structure_flow, checkpoint.latent_flow)
