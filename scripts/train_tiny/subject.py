"""A checkpoint as the evaluation sees it: many prompts at a time, to voxels and splats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams, Splats, choose_compute, upright
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.preprocessing import frame_object
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.params import Conditions
from pipeline.sampling.engine import Engine
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import load_checkpoint
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights.locate import locate, locate_image_encoder, locate_text_encoder

Prompt = Image.Image | str


class Subject:
    """A checkpoint loaded as the miner loads it, in float32 and by the plain path, so that figures hold anywhere."""

    def __init__(self, reference: str, device: str) -> None:
        compute = choose_compute(device, "float32", "plain")
        directory = locate(reference, "pipeline.json")
        self.engine = Engine(load_checkpoint(directory, compute.device, compute.dtype), compute)
        checkpoint = self.engine.checkpoint
        self._negative: Tensor | None = None
        self._encode: Callable[[Any], Tensor]
        if checkpoint.image_cond_model:
            pictures = ImageEncoder(locate_image_encoder(checkpoint.image_cond_model, directory), compute.device)
            self._encode = lambda prompt: pictures(frame_object(prompt))
        else:
            sentences = TextEncoder(locate_text_encoder(checkpoint.text_cond_model, directory), compute.device)
            self._encode, self._negative = sentences, sentences.null

    @property
    def takes_sentences(self) -> bool:
        """Whether its prompts are sentences."""
        return self._negative is not None

    @torch.inference_mode()
    def tokens(self, prompts: Sequence[Prompt]) -> Tensor:
        """[B, T, C] what both samplers are conditioned on."""
        return torch.cat([self._encode(prompt) for prompt in prompts])

    @torch.inference_mode()
    def structures(self, tokens: Tensor, seeds: Sequence[int], params: SamplerParams) -> Tensor:
        """Logits [B, 1, 64, 64, 64] of what is sampled for each prompt's tokens."""
        noise = torch.stack([torch.randn(self.engine.structure_shape, generator=_source(seed)) for seed in seeds])
        return self.engine.decode_structure(self.engine.sample_structure(self._conditions(tokens), params, noise))

    @torch.inference_mode()
    def splats(
        self, tokens: Tensor, seeds: Sequence[int], logits: Tensor, params: SamplerParams
    ) -> list[Splats | None]:
        """Splats, upright, on the structures; None where no voxel is occupied."""
        filled = [index for index in range(len(tokens)) if bool((logits[index] > 0).any())]
        found: list[Splats | None] = [None] * len(tokens)
        if not filled:
            return found
        grid = VoxelGrid(occupied_voxels(logits[filled]))
        sizes = grid.batch.bincount().tolist()
        channels = self.engine.latent_channels
        noise = torch.cat(
            [
                torch.randn(size, channels, generator=_source(seeds[index] + 1))
                for size, index in zip(sizes, filled, strict=True)
            ]
        )
        sample = self.engine.sample_latents(self._conditions(tokens[filled]), params, grid, noise)
        for part, rows, index in zip(sample.split(sizes), grid.positions.split(sizes), filled, strict=True):
            found[index] = upright(self.engine.decode_latents(part, VoxelGrid.of([rows])))
        return found

    def _conditions(self, tokens: Tensor) -> Conditions:
        negative = None if self._negative is None else self._negative.expand(len(tokens), -1, -1)
        return Conditions((tokens,), negative)


def _source(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
