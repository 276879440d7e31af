"""Loading of the backend that a phase names, with a text-to-image model in front of it if there is one."""

from collections.abc import Callable, Sequence
from typing import Literal

from pipeline.backends.text_to_image import TextToImage, TextToImageBackend
from pipeline.compute import ComputeConfig
from pipeline.conditioning.background import Provider
from pipeline.generator import CheckpointSource, Generator
from pipeline.request import Backend

BackendName = Literal["native", "trellis"]


def load_backend(
    name: BackendName, compute: ComputeConfig, *, image: CheckpointSource | None, text: CheckpointSource | None,
    background_models: Sequence[str], background_provider: Provider = "cpu", text_to_image: str | None = None,
) -> Backend:  # fmt: skip
    """Load everything that generation from images, from sentences or from both needs; see Generator.load.

    text_to_image: the model that draws sentences, for use without `text`; see TextToImage.load.
    Raises CheckpointError, BackgroundModelError, TextToImageError or, for "trellis", BackendError.
    """
    # Loaded first, since it fails at once if its package is missing.
    model = None if text_to_image is None else TextToImage.load(text_to_image, compute)
    load: Callable[..., Backend] = Generator.load
    if name == "trellis":
        # Imported only when chosen.
        from pipeline.backends.upstream import UpstreamGenerator

        load = UpstreamGenerator.load
    background = {"background_models": background_models, "background_provider": background_provider}
    backend = load(compute, image=image, text=text, **background)
    return backend if model is None else TextToImageBackend(backend, model, compute.device)
