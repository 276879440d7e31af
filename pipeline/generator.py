"""Prompt in, splats out: the stages of TRELLIS in order, timed, with explicit randomness."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.background import BackgroundRemover, Provider
from pipeline.conditioning import ImageEncoder
from pipeline.devices import Compute
from pipeline.errors import EmptyForeground, EmptyStructure, NonFiniteOutput, TooManyVoxels
from pipeline.preprocessing import PICTURE_SIZE, cut_out, frame_object
from pipeline.prompt import ImagePrompt
from pipeline.sampling import SamplerParams, euler_steps
from pipeline.splats import Splats
from pipeline.trellis.checkpoint import Checkpoint, load_checkpoint
from pipeline.trellis.gaussians import to_gaussians, to_splats
from pipeline.trellis.structure_decoder import likeliest_voxels, occupied_voxels
from pipeline.trellis.voxels import VoxelGrid
from pipeline.weights import locate, locate_image_encoder

STAGES = ("background", "conditioning", "structure", "latents", "gaussians")
# Called after each sampler step with the stage, the steps done and the number of steps.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VoxelLimit:
    """At most `count` occupied voxels; what is above is an error, or the least likely voxels are dropped."""

    count: int
    excess: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class Request:
    """What to generate: a picture, the seed of all noise, the two samplers' settings, a limit to the structure."""

    prompt: ImagePrompt
    seed: int
    sparse_structure_sampler_params: SamplerParams
    slat_sampler_params: SamplerParams
    voxel_limit: VoxelLimit | None = None


@dataclass(frozen=True, eq=False)
class Asset:
    """A generated object and the numbers of its making; seconds has a key for each of STAGES."""

    splats: Splats
    seed: int
    voxels: int
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Time of all stages together."""
        return sum(self.seconds.values())


@dataclass
class _Stopwatch:
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - start


def _ignore(_stage: str, _done: int, _steps: int) -> None:
    """Nobody watches."""


class Generator:
    """Owns the networks of one checkpoint; one call at a time."""

    def __init__(
        self, checkpoint: Checkpoint, encoder: ImageEncoder, remove_background: BackgroundRemover, compute: Compute
    ) -> None:
        self.checkpoint = checkpoint
        self._encoder = encoder
        self._remove_background = remove_background
        self._compute = compute

    @staticmethod
    def load(
        checkpoint: str, compute: Compute, *, background_model: str, background_provider: Provider = "cpu"
    ) -> Generator:
        """Load all that generation needs; checkpoint is "embedded", a directory or a Hugging Face id.

        Raises CheckpointError or BackgroundModelError, both naming what is missing and the command that gets it.
        """
        directory = locate(checkpoint, "pipeline.json")
        remover = BackgroundRemover(background_model, background_provider)
        networks = load_checkpoint(directory, compute.device, compute.dtype)
        encoder = ImageEncoder(locate_image_encoder(networks.image_cond_model, directory), compute.device)
        return Generator(networks, encoder, remover, compute)

    @property
    def background_provider(self) -> str:
        """The onnxruntime provider that background removal really runs on."""
        return self._remove_background.provider

    def warm_up(self, sparse_structure_sampler_params: SamplerParams, slat_sampler_params: SamplerParams) -> float:
        """Generate once, so that the first request finds everything ready; returns the seconds it took."""
        start = time.perf_counter()
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        ImageDraw.Draw(picture).ellipse((120, 120, 400, 400), fill="red")
        prompt = ImagePrompt(picture, "warm-up")
        with suppress(EmptyStructure, EmptyForeground):
            self.generate(Request(prompt, 0, sparse_structure_sampler_params, slat_sampler_params))
        return time.perf_counter() - start

    @torch.inference_mode()
    def generate(self, request: Request, on_step: OnStep = _ignore) -> Asset:
        """Generate one object. `on_step` is called after each sampler step and may raise Cancelled to stop.

        Raises EmptyForeground, EmptyStructure, TooManyVoxels, NonFiniteOutput, or what on_step raises.
        """
        watch = _Stopwatch(self._compute.device)
        with watch.stage("background"):
            picture = frame_object(cut_out(request.prompt.image, self._remove_background))
        with watch.stage("conditioning"):
            cond = self._encoder(picture)
        # One generator on the CPU, drawn from in upstream's order, makes the same noise on every device.
        noise = torch.Generator("cpu").manual_seed(request.seed)
        with watch.stage("structure"):
            logits = self._sample_structure(cond, request.sparse_structure_sampler_params, noise, on_step)
            coords = _limited(logits, request.voxel_limit)
        grid = VoxelGrid(coords)
        with watch.stage("latents"):
            latents = self._sample_latents(cond, grid, request.slat_sampler_params, noise, on_step)
        with watch.stage("gaussians"):
            decoder = self.checkpoint.gaussian_decoder
            raw = decoder(latents, grid)
            if not bool(raw.isfinite().all()):
                raise NonFiniteOutput("the gaussian decoder returned NaN or infinity; try precision: float32")
            gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config)
            splats = to_splats(gaussians)
        return Asset(splats, request.seed, len(grid), watch.seconds)

    def _sample_structure(self, cond: Tensor, params: SamplerParams, noise: torch.Generator, on_step: OnStep) -> Tensor:
        flow = self.checkpoint.structure_flow
        shape = (1, flow.in_channels, *[flow.resolution] * 3)

        def velocity(x: Tensor, t: float, context: Tensor) -> Tensor:
            v: Tensor = flow(x, _model_time(t, 1, x), context)
            return v

        sample = self._sample(
            velocity, torch.randn(shape, generator=noise), cond, params, partial(on_step, "structure")
        )
        logits: Tensor = self.checkpoint.structure_decoder(sample)
        if not bool(logits.isfinite().all()):
            raise NonFiniteOutput("the structure decoder returned NaN or infinity; try precision: float32")
        return logits

    def _sample_latents(
        self,
        cond: Tensor,
        grid: VoxelGrid,
        params: SamplerParams,
        noise: torch.Generator,
        on_step: OnStep,
    ) -> Tensor:
        flow = self.checkpoint.latent_flow

        def velocity(x: Tensor, t: float, context: Tensor) -> Tensor:
            v: Tensor = flow(x, grid, _model_time(t, 1, x), context)
            return v

        start = torch.randn(len(grid), flow.in_channels, generator=noise)
        sample = self._sample(velocity, start, cond, params, partial(on_step, "latents"))
        return sample * self.checkpoint.latent_std + self.checkpoint.latent_mean

    def _sample(
        self,
        velocity: Callable[[Tensor, float, Tensor], Tensor],
        noise: Tensor,
        cond: Tensor,
        params: SamplerParams,
        on_step: Callable[[int, int], None],
    ) -> Tensor:
        x = noise.to(self._compute.device)
        # For pictures the negative condition is a context of zeros.
        for step in euler_steps(velocity, x, cond, torch.zeros_like(cond), params):
            x = step.x_next
            on_step(step.index + 1, params.steps)
        if not bool(x.isfinite().all()):
            raise NonFiniteOutput("a sampler returned NaN or infinity; try precision: float32")
        return x


def _limited(logits: Tensor, limit: VoxelLimit | None) -> Tensor:
    """Coordinates [N, 4] of the occupied voxels of logits [1, 1, R, R, R], within the limit."""
    coords = occupied_voxels(logits)
    if len(coords) == 0:
        raise EmptyStructure("the structure sampler left every voxel empty; try another seed")
    if limit is None or len(coords) <= limit.count:
        return coords
    if limit.excess == "refuse":
        raise TooManyVoxels(f"the structure has {len(coords)} voxels, more than {limit.count}")
    return likeliest_voxels(coords, logits, limit.count)


def _model_time(t: float, batch: int, like: Tensor) -> Tensor:
    """Time as the networks take it: times 1000, float32, one per batch item."""
    return torch.full((batch,), 1000 * t, dtype=torch.float32, device=like.device)
