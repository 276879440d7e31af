"""Sampling and decoding with the networks of one checkpoint: conditions and noise in, splats out."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.compute import ComputeConfig, current_device
from pipeline.errors import NonFiniteOutput
from pipeline.params import Conditions, SamplerParams, Velocities
from pipeline.sampling.euler import euler_steps, schedule
from pipeline.sampling.velocity import Flows, PlainFlows
from pipeline.splats.splats import Splats
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import Checkpoint
from pipeline.trellis.gaussians import to_gaussians, to_splats

# Called after each sampler step with the number of steps done.
OnSamplerStep = Callable[[int], None]

# Attention inside windows, whose number and lengths differ in every structure. cuDNN is left out, since it plans for a
# tenth of a second for each new shape.
_WINDOW_ATTENTION_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Two guided and two unguided steps, since fused flows run a step the first time and capture it the second.
WARM_UP_PARAMS = SamplerParams(steps=4, cfg_strength=1.0, cfg_interval=(0.6, 1.0))
# Coarse cells along each axis of a structure; a cell has two voxels along each axis.
_CELLS = 32


class Engine:
    """One checkpoint's networks, for sampling and decoding; noise comes from the caller and may lie on any device.

    structure_shape: shape of the structure sampler's noise: channels, then the cells along x, y and z.
    latent_channels: channels of the latents' noise.
    """

    def __init__(self, checkpoint: Checkpoint, compute: ComputeConfig) -> None:
        """Prepare the checkpoint's flows with the kernels that `compute` names."""
        self.checkpoint = checkpoint
        self.device = compute.device
        flow = checkpoint.structure_flow
        self.structure_shape = (flow.in_channels, *[flow.resolution] * 3)
        self.latent_channels = checkpoint.latent_flow.in_channels
        self.flows: Flows = PlainFlows(checkpoint.structure_flow, checkpoint.latent_flow)
        self._decode_structure: Callable[[Tensor], Tensor] = checkpoint.structure_decoder
        self._decode_latents: Callable[[Tensor, VoxelGrid], Tensor] = checkpoint.gaussian_decoder
        if compute.fused:
            # Its kernels need Triton, which is not installed everywhere.
            from pipeline.fused.flows import FusedFlows
            from pipeline.fused.gaussian_decoder import FusedGaussianDecoder
            from pipeline.fused.structure_decoder import FusedStructureDecoder

            with current_device(self.device):
                self.flows = FusedFlows(checkpoint.structure_flow, checkpoint.latent_flow, fp8=compute.fp8)
                self._decode_structure = FusedStructureDecoder(checkpoint.structure_decoder)
                self._decode_latents = FusedGaussianDecoder(checkpoint.gaussian_decoder)

    def sample_structure(
        self, conditions: Conditions, params: SamplerParams, noise: Tensor, on_step: OnSamplerStep = lambda _done: None
    ) -> Tensor:
        """Turn noise [B, *structure_shape] into a latent grid of the same shape, on the engine's device."""
        with current_device(self.device):
            velocities = self.flows.prepare_structure(schedule(params.steps, params.rescale_t), conditions)
            return self._sample(velocities, conditions, params, noise, on_step)

    def decode_structure(self, sample: Tensor) -> Tensor:
        """Turn a latent grid [B, *structure_shape] into occupancy logits [B, 1, R, R, R]."""
        with current_device(self.device):
            return self._decode_structure(sample)

    def sample_latents(
        self, conditions: Conditions, params: SamplerParams, grid: VoxelGrid, noise: Tensor,
        on_step: OnSamplerStep = lambda _done: None,
    ) -> Tensor:  # fmt: skip
        """Turn noise [N, latent_channels] on the N voxels of a grid into denormalised latents of the same shape."""
        with current_device(self.device):
            velocities = self.flows.prepare_latents(schedule(params.steps, params.rescale_t), conditions, grid)
            sample = self._sample(velocities, conditions, params, noise, on_step)
        return sample * self.checkpoint.latent_std + self.checkpoint.latent_mean

    def decode_latents(self, latents: Tensor, grid: VoxelGrid) -> Splats:
        """Turn latents [N, latent_channels] on the N voxels of a grid into splats, voxel by voxel.

        Raises NonFiniteOutput.
        """
        decoder = self.checkpoint.gaussian_decoder
        with current_device(self.device), sdpa_kernel(_WINDOW_ATTENTION_BACKENDS):
            raw = self._decode_latents(latents, grid)
        if not bool(raw.isfinite().all()):
            raise NonFiniteOutput("the gaussian decoder returned NaN or infinity; try precision: float32")
        return to_splats(to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config))

    @torch.inference_mode()
    def warm_up_steps(self, conditions: Conditions) -> Iterator[None]:
        """Sample latents in a few steps on structures of every size that the flows treat differently.

        Yields after each size. Libraries choose and load their kernels by size, and graphs are captured; without this,
        the first structure of a new size takes longer.
        """
        # The largest comes first, so that the others reuse its memory.
        for number, (cells, voxels) in enumerate(sorted(self.flows.warm_up_sizes, reverse=True)):
            grid = grid_of_size(cells, voxels, self.device)
            noise = torch.zeros(len(grid), self.latent_channels)
            latents = self.sample_latents(conditions, WARM_UP_PARAMS, grid, noise)
            if number == 0:
                with suppress(NonFiniteOutput):
                    self.decode_latents(latents, grid)
            yield
        if self.device.type == "cuda":
            # Torch would keep the memory cached for every size.
            torch.cuda.empty_cache()

    def _sample(
        self, velocities: Velocities, conditions: Conditions, params: SamplerParams, x: Tensor, on_step: OnSamplerStep
    ) -> Tensor:
        x = x.to(self.device)
        for step in euler_steps(velocities, x, conditions, params):
            x = step.x_next
            on_step(step.index + 1)
        return x


def grid_of_size(cells: int, voxels: int, device: torch.device) -> VoxelGrid:
    """Return a grid with the given number of voxels, spread evenly over `cells` cells of 2 x 2 x 2 voxels."""
    number = torch.arange(voxels, device=device)
    cell, child = number % cells, number // cells
    corner = torch.stack([cell // _CELLS**2, cell // _CELLS % _CELLS, cell % _CELLS], dim=1)
    return VoxelGrid.of([2 * corner + torch.stack([child // 4, child // 2 % 2, child % 2], dim=1)])
