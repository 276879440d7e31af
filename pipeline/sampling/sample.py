"""Sampling of one object from a prompt's conditions and the noise of one seed: structure, latents, gaussians."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.errors import EmptyStructure, NonFiniteOutput, TooManyVoxels
from pipeline.params import Conditions, VoxelLimit
from pipeline.request import STAGES, Asset, OnStep, Request
from pipeline.sampling.engine import Engine
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import likeliest_voxels, occupied_voxels


@dataclass
class Measurements:
    """Measurements of a generation: seconds of each stage, and the number of voxels, 0 until it is known."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    voxels: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the device has finished the work that the block gives it."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start


def sample_asset(
    engine: Engine, conditions: Conditions, request: Request, on_step: OnStep, measurements: Measurements
) -> Asset:
    """Generate one object with the request's seed, sampler settings and voxel limit.

    Raises EmptyStructure, TooManyVoxels, NonFiniteOutput, torch.OutOfMemoryError or what on_step raises; the
    measurements then hold what was measured before.
    """
    structure, latents = request.sparse_structure_sampler_params, request.slat_sampler_params
    # Noise drawn on the CPU, in upstream's order, is the same on every device.
    source = torch.Generator("cpu").manual_seed(request.seed)
    with measurements.stage("structure"):
        noise = torch.randn(1, *engine.structure_shape, generator=source)
        if request.structure is None:
            sample = engine.sample_structure(
                conditions, structure, noise, lambda done: on_step("structure", done, structure.steps)
            )
            voxels = _voxels(engine.decode_structure(sample), request.voxel_limit)
        else:
            voxels = request.structure.to(engine.device, torch.int32)
        measurements.voxels = len(voxels)
    with measurements.stage("latents"):
        noise = torch.randn(len(voxels), engine.latent_channels, generator=source)
        grid = VoxelGrid.of([voxels])
        sample = engine.sample_latents(
            conditions, latents, grid, noise, lambda done: on_step("latents", done, latents.steps)
        )
    with measurements.stage("gaussians"):
        splats = engine.decode_latents(sample, grid)
    return Asset(splats, request.seed, len(voxels), measurements.seconds, voxels.to("cpu", torch.uint8))


def _voxels(logits: Tensor, limit: VoxelLimit | None) -> Tensor:
    """Return the positions [N, 3] of the occupied voxels of logits [1, 1, R, R, R], within the limit.

    Raises NonFiniteOutput, EmptyStructure or TooManyVoxels.
    """
    if not bool(logits.isfinite().all()):
        raise NonFiniteOutput("the structure decoder returned NaN or infinity; try precision: float32")
    coords = occupied_voxels(logits)
    if limit is not None and limit.excess == "drop":
        coords = likeliest_voxels(coords, logits, limit.count)
    check_voxel_count(len(coords), limit)
    return coords[:, 1:]


def check_voxel_count(count: int, limit: VoxelLimit | None, note: str = "") -> None:
    """Raise EmptyStructure if there are no voxels, and TooManyVoxels, with a note, if they exceed the limit."""
    if count == 0:
        raise EmptyStructure("the structure sampler left every voxel empty; try another seed")
    if limit is not None and count > limit.count:
        raise TooManyVoxels(f"the structure has {count} voxels, more than {limit.count}{note}")
