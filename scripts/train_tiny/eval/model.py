"""The checkpoint under test: a prompt, to voxels and splats."""

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams, Splats, choose_compute, flip_up_axis
from pipeline.conditioning.preprocessing import frame_object
from pipeline.params import Conditions
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights.locate import locate
from scripts.loaded_checkpoint import LoadedCheckpoint

Prompt = Image.Image | str


class ModelUnderTest:
    """A checkpoint in float32 on the plain path, so that figures are reproducible on any machine."""

    def __init__(self, reference: str, device: str) -> None:
        """Load a checkpoint as the miner does. Raises CheckpointError."""
        compute = choose_compute(device, "float32", "plain")
        self._loaded = LoadedCheckpoint.load(locate(reference, "pipeline.json"), compute)
        self.engine = self._loaded.engine
        self.takes_text = self._loaded.takes_text

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> Conditions:
        """Return the conditions of both samplers."""
        tokens = self._loaded.encode(prompt if isinstance(prompt, str) else frame_object(prompt))
        return Conditions((tokens,), self._loaded.negative)

    @torch.inference_mode()
    def structure(self, conditions: Conditions, seed: int, params: SamplerParams) -> Tensor:
        """Sample a structure; return the logits [1, 1, 64, 64, 64]."""
        noise = torch.randn(1, *self.engine.structure_shape, generator=torch.Generator().manual_seed(seed))
        return self.engine.decode_structure(self.engine.sample_structure(conditions, params, noise))

    @torch.inference_mode()
    def splats(self, conditions: Conditions, seed: int, logits: Tensor, params: SamplerParams) -> Splats | None:
        """Sample upright splats on a structure; None if no voxel is occupied."""
        if not bool((logits > 0).any()):
            return None
        grid = VoxelGrid(occupied_voxels(logits))
        noise = torch.randn(len(grid), self.engine.latent_channels, generator=torch.Generator().manual_seed(seed + 1))
        latents = self.engine.sample_latents(conditions, params, grid, noise)
        return flip_up_axis(self.engine.decode_latents(latents, grid))
