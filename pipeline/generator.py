"""Generation with this package's own networks: a prompt in, splats out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from PIL import Image, ImageDraw

from pipeline.compute import ComputeConfig
from pipeline.conditioning.background import Provider
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import PICTURE_SIZE, PreparedPicture, prepare_picture
from pipeline.conditioning.prompt import ImagePrompt, ImagesPrompt, Prompt, TextPrompt
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.errors import CheckpointError, EmptyForeground, EmptyStructure, OutOfMemory, UnsupportedPrompt
from pipeline.params import Conditions, VoxelLimit
from pipeline.request import Asset, Backend, Conditioning, OnStep, Request, ignore_steps
from pipeline.sampling.engine import WARM_UP_PARAMS, Engine
from pipeline.sampling.sample import Measurements, sample_asset
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint
from pipeline.weights.locate import locate

log = logging.getLogger(__name__)

# Untrained weights may occupy the whole grid, which would take many times the memory of an object. A CPU needs no more
# than its libraries loaded.
_WARM_UP_VOXELS = {"cuda": 12_000, "cpu": 500}


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint to load: "embedded", a directory or a Hugging Face id, and replacements of single networks.

    overrides: key in pipeline.json's "models" -> path or id of another network of the same kind.
    """

    checkpoint: str
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageRoute:
    """Background removal, encoder and networks for generation from images."""

    engine: Engine
    encoder: ImageEncoder
    remove_background: MattingModels


@dataclass(frozen=True, eq=False)
class TextRoute:
    """Encoder and networks for generation from sentences."""

    engine: Engine
    encoder: TextEncoder


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """The conditions that a prompt was encoded to, and the engine that samples under them."""

    engine: Engine
    conditions: Conditions


class Generator(Backend):
    """A backend of this package's networks, for images, for sentences or for both; one call at a time."""

    def __init__(self, compute: ComputeConfig, image: ImageRoute | None, text: TextRoute | None) -> None:
        """Take the loaded networks of each supported kind of prompt."""
        self.image = image
        self.text = text
        self._device = compute.device

    @staticmethod
    def load(
        compute: ComputeConfig,
        *,
        image: CheckpointSource | None = None,
        text: CheckpointSource | None = None,
        background_models: Sequence[str],
        background_provider: Provider = "cpu",
    ) -> "Generator":
        """Load everything that generation from images, from sentences or from both needs.

        Raises CheckpointError or BackgroundModelError, both naming what is missing and the command that gets it.
        """
        loaded: LoadedNetworks = {}
        image_route = text_route = None
        if image is not None:
            # What is missing shows before the networks are loaded, which takes long.
            locate(image.checkpoint, "pipeline.json")
            remover = MattingModels(background_models, background_provider)
            engine = _load_engine(image, compute, loaded)
            encoder = ImageEncoder(engine.checkpoint.locate_encoder("image_cond_model"), compute.device)
            _check_width(engine, encoder.channels)
            image_route = ImageRoute(engine, encoder, remover)
        if text is not None:
            engine = _load_engine(text, compute, loaded)
            text_encoder = TextEncoder(engine.checkpoint.locate_encoder("text_cond_model"), compute.device)
            _check_width(engine, text_encoder.channels)
            text_route = TextRoute(engine, text_encoder)
        return Generator(compute, image_route, text_route)

    @property
    def supports_image(self) -> bool:
        """Whether there is an image checkpoint."""
        return self.image is not None

    @property
    def supports_text(self) -> bool:
        """Whether there is a text checkpoint."""
        return self.text is not None

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return True: structures are what the latents are sampled on."""
        return True

    def warm_up_steps(self) -> Iterator[None]:
        """Generate one object of each kind, then sample structures of every size that the flows treat differently.

        After that the first request is as fast as any other, whatever its settings and the size of its structure.
        Yields after each object and each size.
        """
        yield from generate_first(self, self._device, image=self.supports_image, text=self.supports_text)
        for encoded in self._warm_up_prompts():
            try:
                yield from encoded.engine.warm_up_steps(encoded.conditions)
            except torch.OutOfMemoryError:
                log.warning("The GPU's memory does not suffice for large structures; consider max_voxels in the phase")

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> Conditioning[EncodedPrompt]:
        """Encode a prompt, for any number of samples. Raises PromptError."""
        measurements = Measurements(self._device)
        encoded, pictures = self._encode(prompt, measurements)
        return Conditioning(encoded, measurements.seconds, pictures)

    @torch.inference_mode()
    def sample(
        self, conditioning: Conditioning[EncodedPrompt], request: Request, on_step: OnStep = ignore_steps
    ) -> Asset:
        """Generate one object from an encoded prompt with the request's seed and settings.

        If the GPU's memory does not suffice, it is freed and generation is tried once more with half the voxels.
        `on_step` is called after each sampler step and may raise Cancelled to stop. Raises EmptyStructure,
        TooManyVoxels, NonFiniteOutput, OutOfMemory, or what on_step raises.
        """
        encoded = conditioning.encoded
        measurements = Measurements(self._device)
        try:
            asset = sample_asset(encoded.engine, encoded.conditions, request, on_step, measurements)
            return replace(asset, pictures=conditioning.pictures)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        # Outside the handler, since the error holds on to the tensors of every frame it came through.
        torch.cuda.empty_cache()
        voxels = measurements.voxels
        size = f"{voxels} voxels" if voxels else "the structure"
        if voxels:
            # A structure that was given does not tell which half of it is the likelier, so it is sampled again.
            request = replace(request, structure=None, voxel_limit=VoxelLimit(max(1, voxels // 2), "drop"))
        log.warning("The GPU's memory did not suffice for %s (%s); trying once more with less", size, reason)
        with suppress(torch.OutOfMemoryError):
            asset = sample_asset(encoded.engine, encoded.conditions, request, on_step, Measurements(self._device))
            return replace(asset, pictures=conditioning.pictures)
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"the GPU's memory does not suffice for {size} ({reason}), and a second attempt with less failed too: "
            "lower max_voxels in the phase, or free the GPU of other processes"
        )

    def _encode(self, prompt: Prompt, measurements: Measurements) -> tuple[EncodedPrompt, tuple[PreparedPicture, ...]]:
        if isinstance(prompt, TextPrompt):
            if self.text is None:
                raise UnsupportedPrompt("no text checkpoint is loaded; the phase needs text: {checkpoint: ...}")
            with measurements.stage("conditioning"):
                tokens = self.text.encoder(prompt.filled)
            return EncodedPrompt(self.text.engine, Conditions((tokens,), self.text.encoder.null)), ()
        if self.image is None:
            raise UnsupportedPrompt("no image checkpoint is loaded; the phase needs image: {checkpoint: ...}")
        views = prompt if isinstance(prompt, ImagesPrompt) else ImagesPrompt((prompt,))
        with measurements.stage("background"):
            pictures = tuple(prepare_picture(view, self.image.remove_background) for view in views.images)
        with measurements.stage("conditioning"):
            contexts = tuple(self.image.encoder(prepared.picture) for prepared in pictures)
        # The negative condition of images is a context of zeros.
        return EncodedPrompt(self.image.engine, Conditions(contexts, None, views.combine)), pictures

    def _warm_up_prompts(self) -> Iterator[EncodedPrompt]:
        if self.image is not None:
            tokens = self.image.encoder(Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE)))
            yield EncodedPrompt(self.image.engine, Conditions((tokens,), None))
        if self.text is not None:
            null = self.text.encoder.null
            yield EncodedPrompt(self.text.engine, Conditions((null,), null))


def generate_first(backend: Backend, device: torch.device, *, image: bool, text: bool) -> Iterator[None]:
    """Generate one object in few steps from each kind of prompt, and yield after it."""
    limit = VoxelLimit(_WARM_UP_VOXELS[device.type], "drop")
    prompts: list[Prompt] = []
    if image:
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        ImageDraw.Draw(picture).ellipse((120, 120, 400, 400), fill="red")
        prompts.append(ImagePrompt(picture, picture.tobytes()))
    if text:
        prompts.append(TextPrompt("a red ball"))
    for prompt in prompts:
        # An untrained checkpoint may leave the structure empty; the networks have run all the same.
        with suppress(EmptyStructure, EmptyForeground):
            backend.generate(Request(prompt, 0, WARM_UP_PARAMS, WARM_UP_PARAMS, limit))
        yield


def _load_engine(source: CheckpointSource, compute: ComputeConfig, loaded: LoadedNetworks) -> Engine:
    directory = locate(source.checkpoint, "pipeline.json")
    checkpoint = load_checkpoint(directory, compute.device, compute.dtype, overrides=source.overrides, loaded=loaded)
    return Engine(checkpoint, compute)


def _check_width(engine: Engine, channels: int) -> None:
    if channels != engine.checkpoint.cond_channels:
        raise CheckpointError(
            f"{engine.checkpoint.directory}: the encoder makes tokens of width {channels}, the flows take "
            f"{engine.checkpoint.cond_channels}"
        )
