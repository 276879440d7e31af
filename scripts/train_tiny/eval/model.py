"""The checkpoint under test: many prompts at a time, to voxels and splats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams, Splats, choose_compute, upright
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
    def encode(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the tokens [B, T, C] that both samplers are conditioned on."""
        return torch.cat([self._loaded.encode(p if isinstance(p, str) else frame_object(p)) for p in prompts])

    @torch.inference_mode()
    def structures(self, tokens: Tensor, seeds: Sequence[int], params: SamplerParams) -> Tensor:
        """Sample a structure for the tokens of each prompt; return the logits [B, 1, 64, 64, 64]."""
        noise = torch.stack([torch.randn(self.engine.structure_shape, generator=_seeded(seed)) for seed in seeds])
        return self.engine.decode_structure(self.engine.sample_structure(self._conditions(tokens), params, noise))

    @torch.inference_mode()
    def splats(
        self, tokens: Tensor, seeds: Sequence[int], logits: Tensor, params: SamplerParams
    ) -> list[Splats | None]:
        """Sample upright splats on the structures; None where no voxel is occupied."""
        filled = [index for index in range(len(tokens)) if bool((logits[index] > 0).any())]
        results: list[Splats | None] = [None] * len(tokens)
        if not filled:
            return results
        grid = VoxelGrid(occupied_voxels(logits[filled]))
        sizes = grid.batch.bincount().tolist()
        channels = self.engine.latent_channels
        noise = torch.cat(
            [
                torch.randn(size, channels, generator=_seeded(seeds[index] + 1))
                for size, index in zip(sizes, filled, strict=True)
            ]
        )
        latents = self.engine.sample_latents(self._conditions(tokens[filled]), params, grid, noise)
        for rows, positions, index in zip(latents.split(sizes), grid.positions.split(sizes), filled, strict=True):
            results[index] = upright(self.engine.decode_latents(rows, VoxelGrid.of([positions])))
        return results

    def _conditions(self, tokens: Tensor) -> Conditions:
        negative = self._loaded.negative
        return Conditions((tokens,), None if negative is None else negative.expand(len(tokens), -1, -1))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
