"""Prompt in, splats out: which networks a prompt goes to, and what it is turned into for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from pipeline.compute import ComputeConfig
from pipeline.conditioning.background import BackgroundRemover, Provider
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.preprocessing import PICTURE_SIZE, cut_out, frame_object
from pipeline.conditioning.prompt import ImagesPrompt, Prompt, TextPrompt
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.errors import CheckpointError, OutOfMemory, PipelineError, UnsupportedPrompt
from pipeline.params import Conditions, Context, VoxelLimit
from pipeline.request import Asset, OnStep, Request, ignore_steps
from pipeline.sampling import batch
from pipeline.sampling.engine import Engine
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint
from pipeline.weights.locate import locate, locate_image_encoder, locate_text_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointSource:
    """Where networks come from: "embedded", a directory or a Hugging Face id, and what replaces single ones.

    overrides: key in pipeline.json's "models" -> path or id of another network of the same kind.
    """

    checkpoint: str
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageRoute:
    """How pictures become conditions, and the networks that take them."""

    engine: Engine
    encoder: ImageEncoder
    remove_background: BackgroundRemover


@dataclass(frozen=True, eq=False)
class TextRoute:
    """How sentences become conditions, and the networks that take them."""

    engine: Engine
    encoder: TextEncoder


class Generator:
    """Owns the networks for pictures, for sentences or for both; one call at a time."""

    def __init__(self, compute: ComputeConfig, image: ImageRoute | None, text: TextRoute | None) -> None:
        self.image = image
        self.text = text
        self._device = compute.device
        # Of the last prompt, since candidates of one prompt follow each other.
        self._known: tuple[Prompt, Engine, Conditions[Context]] | None = None

    @staticmethod
    def load(
        compute: ComputeConfig,
        *,
        image: CheckpointSource | None = None,
        text: CheckpointSource | None = None,
        background_model: str,
        background_provider: Provider = "cpu",
    ) -> Generator:
        """Load all that generation from pictures, from sentences or from both needs.

        Raises CheckpointError or BackgroundModelError, both naming what is missing and the command that gets it.
        """
        loaded: LoadedNetworks = {}
        image_route = text_route = None
        if image is not None:
            directory = locate(image.checkpoint, "pipeline.json")
            remover = BackgroundRemover(background_model, background_provider)
            engine = _engine(image, compute, loaded)
            encoder = ImageEncoder(locate_image_encoder(engine.checkpoint.image_cond_model, directory), compute.device)
            _check_width(engine, encoder.channels)
            image_route = ImageRoute(engine, encoder, remover)
        if text is not None:
            engine = _engine(text, compute, loaded)
            folder = locate_text_encoder(engine.checkpoint.text_cond_model, engine.checkpoint.directory)
            text_encoder = TextEncoder(folder, compute.device)
            _check_width(engine, text_encoder.channels)
            text_route = TextRoute(engine, text_encoder)
        return Generator(compute, image_route, text_route)

    def rehearse(self) -> None:
        """Let the fused kernels meet structures of many sizes, so that the first request of any size is no slower."""
        conditions: list[tuple[Engine, Conditions[Context]]] = []
        if self.image is not None:
            tokens = self.image.encoder(Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE)))
            conditions.append((self.image.engine, Conditions((tokens,), None)))
        if self.text is not None:
            null = self.text.encoder.null
            conditions.append((self.text.engine, Conditions((null,), null)))
        for engine, given in conditions:
            try:
                engine.rehearse(given)
            except torch.OutOfMemoryError:
                log.warning("The GPU's memory does not suffice for large structures; consider max_voxels in the phase")

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Generate one object. `on_step` is called after each sampler step and may raise Cancelled to stop.

        Raises PromptError, EmptyStructure, TooManyVoxels, NonFiniteOutput, OutOfMemory, or what on_step raises.
        """
        (outcome,) = self.generate_batch(request, [request.seed], on_step)
        if isinstance(outcome, PipelineError):
            raise outcome
        return outcome

    @torch.inference_mode()
    def generate_batch(
        self, request: Request, seeds: Sequence[int], on_step: OnStep = ignore_steps
    ) -> list[Asset | PipelineError]:
        """Generate one object for each seed; request.seed is not used. The k-th is what seeds[k] alone would give.

        In place of an object that could not be made stands its error. Raises PromptError, OutOfMemory, or what
        on_step raises.
        """
        progress = batch.Progress(self._device)
        engine, conditions = self._conditions(request.prompt, progress)
        size = len(seeds) if engine.flows.batched else 1
        outcomes: list[Asset | PipelineError] = []
        for start in range(0, len(seeds), size):
            outcomes += self._within_memory(engine, conditions, request, seeds[start : start + size], on_step)
        return [_with_share(outcome, progress, len(seeds)) for outcome in outcomes]

    def _conditions(self, prompt: Prompt, progress: batch.Progress) -> tuple[Engine, Conditions[Context]]:
        if self._known is None or self._known[0] is not prompt:
            self._known = None
            self._known = (prompt, *self._conditioned(prompt, progress))
        return self._known[1:]

    def _conditioned(self, prompt: Prompt, progress: batch.Progress) -> tuple[Engine, Conditions[Context]]:
        if isinstance(prompt, TextPrompt):
            if self.text is None:
                raise UnsupportedPrompt("no text checkpoint is loaded; the phase needs text: {checkpoint: ...}")
            with progress.stage("conditioning"):
                tokens = self.text.encoder(prompt.text)
            return self.text.engine, Conditions((tokens,), self.text.encoder.null)
        if self.image is None:
            raise UnsupportedPrompt("no image checkpoint is loaded; the phase needs image: {checkpoint: ...}")
        several = prompt if isinstance(prompt, ImagesPrompt) else ImagesPrompt((prompt,))
        with progress.stage("background"):
            pictures = [frame_object(cut_out(image.image, self.image.remove_background)) for image in several.images]
        with progress.stage("conditioning"):
            views = tuple(self.image.encoder(picture) for picture in pictures)
        # For pictures the negative condition is a context of zeros.
        return self.image.engine, Conditions(views, None, several.combine)

    def _within_memory(
        self, engine: Engine, conditions: Conditions[Context], request: Request, seeds: Sequence[int], on_step: OnStep
    ) -> list[Asset | PipelineError]:
        """Generate; where the GPU's memory does not suffice, free it and try once more with half the voxels."""
        progress = batch.Progress(self._device)
        try:
            return batch.generate(engine, conditions, request, seeds, on_step, progress)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        # Outside the handler, since the error holds on to the tensors of every frame it came through.
        torch.cuda.empty_cache()
        asked = f"{progress.voxels} voxels" if progress.voxels else "the structure"
        if progress.voxels:
            request = replace(request, voxel_limit=VoxelLimit(max(1, progress.voxels // len(seeds) // 2), "drop"))
        log.warning("The GPU's memory did not suffice for %s (%s); trying once more with less", asked, reason)
        try:
            return batch.generate(engine, conditions, request, seeds, on_step, batch.Progress(self._device))
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"the GPU's memory does not suffice for {asked} ({reason}), nor did it when tried again with less: lower "
            "max_voxels in the phase, or free the GPU of other processes"
        )


def _engine(source: CheckpointSource, compute: ComputeConfig, loaded: LoadedNetworks) -> Engine:
    directory = locate(source.checkpoint, "pipeline.json")
    checkpoint = load_checkpoint(directory, compute.device, compute.dtype, overrides=source.overrides, loaded=loaded)
    return Engine(checkpoint, compute)


def _check_width(engine: Engine, channels: int) -> None:
    if channels != engine.checkpoint.cond_channels:
        raise CheckpointError(
            f"{engine.checkpoint.directory}: the encoder makes tokens of width {channels}, the flows take "
            f"{engine.checkpoint.cond_channels}"
        )


def _with_share(outcome: Asset | PipelineError, before: batch.Progress, count: int) -> Asset | PipelineError:
    """The asset with its share of the seconds that were spent before its batch."""
    if isinstance(outcome, PipelineError):
        return outcome
    seconds = {stage: spent + before.seconds[stage] / count for stage, spent in outcome.seconds.items()}
    return replace(outcome, seconds=seconds)
