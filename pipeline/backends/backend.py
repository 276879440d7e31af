"""What generates: the networks of this package or, for comparison, the published implementation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, Protocol

from PIL import Image, ImageDraw

from pipeline.backends.text_to_image import TextToImage, TextToImageBackend
from pipeline.compute import ComputeConfig
from pipeline.conditioning.background import Provider
from pipeline.conditioning.preprocessing import PICTURE_SIZE
from pipeline.conditioning.prompt import ImagePrompt, Prompt, TextPrompt
from pipeline.errors import CheckpointError, EmptyForeground, EmptyStructure, PipelineError
from pipeline.generator import CheckpointSource, Generator
from pipeline.params import VoxelLimit
from pipeline.request import Asset, OnStep, Request, ignore_steps
from pipeline.sampling.engine import REHEARSAL

BackendName = Literal["native", "trellis"]
# A warm-up's structure is nobody's: untrained weights may fill all of the grid, which takes many times the memory.
_WARM_UP_LIMIT = VoxelLimit(12_000, "drop")


class Backend(Protocol):
    """Generates objects, one call at a time; `image` or `text` is None where such prompts are not taken."""

    @property
    def image(self) -> object | None:
        """What turns pictures into objects."""

    @property
    def text(self) -> object | None:
        """What turns sentences into objects."""

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """See Generator.generate."""

    def generate_batch(
        self, request: Request, seeds: Sequence[int], on_step: OnStep = ignore_steps
    ) -> list[Asset | PipelineError]:
        """See Generator.generate_batch."""


def load_backend(
    name: BackendName,
    compute: ComputeConfig,
    *,
    image: CheckpointSource | None,
    text: CheckpointSource | None,
    background_model: str,
    background_provider: Provider = "cpu",
    text_to_image: str | None = None,
) -> Backend:
    """Load what generation from pictures, from sentences or from both needs; see Generator.load.

    text_to_image: the model that draws sentences, for use without `text`; see TextToImage.load.
    Raises CheckpointError, BackgroundModelError, TextToImageError or, for "trellis", BackendError.
    """
    # First, since it says at once when the package is missing.
    draw = None if text_to_image is None else TextToImage.load(text_to_image, compute)
    backend = _load(name, compute, image, text, background_model, background_provider)
    return backend if draw is None else TextToImageBackend(backend, draw, compute.device)


def _load(
    name: BackendName,
    compute: ComputeConfig,
    image: CheckpointSource | None,
    text: CheckpointSource | None,
    background_model: str,
    background_provider: Provider,
) -> Backend:
    if name == "native":
        return Generator.load(
            compute,
            image=image,
            text=text,
            background_model=background_model,
            background_provider=background_provider,
        )
    # Imported only when chosen.
    from pipeline.backends.upstream import UpstreamGenerator

    if any(source is not None and source.overrides for source in (image, text)):
        raise CheckpointError("backend: trellis loads whole checkpoints; leave overrides out")
    return UpstreamGenerator.load(
        compute,
        image=image.checkpoint if image else None,
        text=text.checkpoint if text else None,
        background_model=background_model,
        background_provider=background_provider,
    )


def warm_up(backend: Backend) -> float:
    """Generate once of each kind, so that the first request finds everything ready, whatever its settings.

    Returns the seconds it took.
    """
    start = time.perf_counter()
    prompts: list[Prompt] = []
    if backend.image is not None:
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        ImageDraw.Draw(picture).ellipse((120, 120, 400, 400), fill="red")
        prompts.append(ImagePrompt(picture, "warm-up"))
    if backend.text is not None:
        prompts.append(TextPrompt("a red ball"))
    for prompt in prompts:
        # A structure may come out empty; all that matters is that the networks ran.
        with suppress(EmptyStructure, EmptyForeground):
            backend.generate(Request(prompt, 0, REHEARSAL, REHEARSAL, _WARM_UP_LIMIT))
    generator = backend.backend if isinstance(backend, TextToImageBackend) else backend
    if isinstance(generator, Generator):
        generator.rehearse()
    return time.perf_counter() - start
