"""Generation without background removal: what the benchmark of generation, memory and precision all run."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from miner.config import shipped_config
from miner.config.phase_files import load_phase
from pipeline import SamplerParams, Splats, ply
from pipeline.params import Conditions
from pipeline.sampling.engine import Engine
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights import random_init
from pipeline.weights.locate import locate
from scripts.loaded_checkpoint import LoadedCheckpoint

_IMAGE_SIZE = 518


@contextmanager
def checkpoint_directory(reference: str) -> Iterator[Path]:
    """Return the directory of a checkpoint; "random:NAME" writes one of a published size, which goes with the context.

    Raises CheckpointError.
    """
    source, _, name = reference.partition(":")
    if source != "random":
        yield locate(reference, "pipeline.json")
        return
    with tempfile.TemporaryDirectory() as folder:
        random_init.write_checkpoint(name, Path(folder), "cuda")
        torch.cuda.empty_cache()
        yield Path(folder)


def shell_grid(voxels: int, device: torch.device) -> VoxelGrid:
    """Return the `voxels` voxels of a 64^3 grid that are nearest to a sphere, in a layer about 1.3 voxels thick."""
    axis = (torch.arange(64) + 0.5) / 64 - 0.5
    radii = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    distance = (radii - (voxels / (4 * torch.pi * 1.3)) ** 0.5 / 64).abs()
    nearest = distance.flatten().argsort(stable=True)[:voxels]
    occupied = torch.zeros(64**3, dtype=torch.bool)
    occupied[nearest] = True
    return VoxelGrid.of([occupied.view(64, 64, 64).nonzero().to(device)])


def phase_params(name: str, reuse: int = 0) -> tuple[SamplerParams, SamplerParams]:
    """Return the parameters of both samplers of a shipped phase, with another `reuse`. Raises OperatorError."""
    structure, latents = load_phase(name, shipped_config() / "miner.yaml").settings.samplers
    return replace(structure, reuse=reuse), replace(latents, reuse=reuse)


@dataclass(frozen=True, eq=False)
class GenerationWorkload:
    """A checkpoint, the conditions of one prompt, and a shell of voxels, since random weights make no structure."""

    checkpoint: LoadedCheckpoint
    prompt: Image.Image | str
    conditions: Conditions
    structure_params: SamplerParams
    latent_params: SamplerParams
    grid: VoxelGrid
    structure_noise: Tensor

    @staticmethod
    def prepare(
        checkpoint: LoadedCheckpoint, params: tuple[SamplerParams, SamplerParams], voxels: int
    ) -> "GenerationWorkload":
        """Encode a random image, or a text if the checkpoint takes texts, and draw the noise of the structure."""
        prompt: Any = "a red chair"
        if not checkpoint.takes_text:
            pixels = torch.randint(0, 256, (_IMAGE_SIZE, _IMAGE_SIZE, 3), dtype=torch.uint8)
            prompt = Image.fromarray(pixels.numpy())
        engine = checkpoint.engine
        grid, noise = shell_grid(voxels, engine.device), torch.randn(1, *engine.structure_shape)
        return GenerationWorkload(checkpoint, prompt, checkpoint.conditions(prompt), *params, grid, noise)

    @property
    def engine(self) -> Engine:
        """The engine of the checkpoint."""
        return self.checkpoint.engine

    def sample_structure(self) -> Tensor:
        """Sample a structure, which no later stage uses."""
        return self.engine.sample_structure(self.conditions, self.structure_params, self.structure_noise)

    def sample_latents(self, grid: VoxelGrid) -> Tensor:
        """Sample latents on a grid as on a new one: nothing derived from its coordinates is used again."""
        noise = torch.randn(len(grid), self.engine.latent_channels)
        return self.engine.sample_latents(self.conditions, self.latent_params, VoxelGrid(grid.coords), noise)

    def make_splats(self, grid: VoxelGrid) -> Splats:
        """Run all stages after conditioning."""
        occupied_voxels(self.engine.decode_structure(self.sample_structure()))
        return self.engine.decode_latents(self.sample_latents(grid), VoxelGrid(grid.coords))

    def make_candidate(self, grid: VoxelGrid) -> bytes:
        """Run all stages after conditioning; return the PLY file."""
        return ply.to_bytes(self.make_splats(grid))
