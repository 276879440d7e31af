"""From conditions to objects, several seeds at a time, each as it would be alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.errors import EmptyStructure, NonFiniteOutput, PipelineError, TooManyVoxels
from pipeline.params import Conditions, Context, VoxelLimit
from pipeline.request import STAGES, Asset, OnStep, Request
from pipeline.sampling.engine import Engine
from pipeline.splats.splats import Splats
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import likeliest_voxels, occupied_voxels


@dataclass
class Progress:
    """How far a batch has come: seconds per stage, and the voxels of all its structures once they are known."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    voxels: int | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the device has done what is asked of it inside."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start


def generate(
    engine: Engine,
    conditions: Conditions[Context],
    request: Request,
    seeds: Sequence[int],
    on_step: OnStep,
    progress: Progress,
) -> list[Asset | PipelineError]:
    """An object for each seed or, in its place, why there is none: empty, too large or not finite."""
    structure, latents = request.sparse_structure_sampler_params, request.slat_sampler_params
    # One generator for each seed, on the CPU and drawn from in upstream's order, makes the same noise on every device.
    sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with progress.stage("structure"):
        noise = torch.stack([torch.randn(engine.structure_shape, generator=source) for source in sources])
        grids = engine.sample_structure(
            conditions, structure, noise, lambda done: on_step("structure", done, structure.steps)
        )
        logits = engine.decode_structure(grids)
        found = [_voxels(sample, request.voxel_limit) for sample in logits]
    kept = [(source, voxels) for source, voxels in zip(sources, found, strict=True) if isinstance(voxels, Tensor)]
    if not kept:
        return [failure for failure in found if isinstance(failure, PipelineError)]
    progress.voxels = sum(len(voxels) for _, voxels in kept)
    with progress.stage("latents"):
        noise = torch.cat(
            [torch.randn(len(voxels), engine.latent_channels, generator=source) for source, voxels in kept]
        )
        grid = VoxelGrid.of([voxels for _, voxels in kept])
        sample = engine.sample_latents(
            conditions, latents, grid, noise, lambda done: on_step("latents", done, latents.steps)
        )
    with progress.stage("gaussians"):
        parts = sample.split([len(voxels) for _, voxels in kept])
        decoded = [_splats(engine, part, voxels) for part, (_, voxels) in zip(parts, kept, strict=True)]
    seconds = {stage: total / len(seeds) for stage, total in progress.seconds.items()}
    remaining = iter(decoded)
    outcomes: list[Asset | PipelineError] = []
    for seed, voxels in zip(seeds, found, strict=True):
        outcome = next(remaining) if isinstance(voxels, Tensor) else voxels
        if isinstance(outcome, Splats) and isinstance(voxels, Tensor):
            outcomes.append(Asset(outcome, seed, len(voxels), seconds))
        elif isinstance(outcome, PipelineError):
            outcomes.append(outcome)
    return outcomes


def _voxels(logits: Tensor, limit: VoxelLimit | None) -> Tensor | PipelineError:
    """Positions [N, 3] of the occupied voxels of logits [1, R, R, R], within the limit; or why there are none."""
    if not bool(logits.isfinite().all()):
        return NonFiniteOutput("the structure decoder returned NaN or infinity; try precision: float32")
    coords = occupied_voxels(logits[None])
    if len(coords) == 0:
        return EmptyStructure("the structure sampler left every voxel empty; try another seed")
    if limit is not None and len(coords) > limit.count:
        if limit.excess == "refuse":
            return TooManyVoxels(f"the structure has {len(coords)} voxels, more than {limit.count}")
        coords = likeliest_voxels(coords, logits[None], limit.count)
    return coords[:, 1:]


def _splats(engine: Engine, latents: Tensor, voxels: Tensor) -> Splats | NonFiniteOutput:
    try:
        return engine.decode_latents(latents, VoxelGrid.of([voxels]))
    except NonFiniteOutput as failure:
        return failure
