"""A backend that runs the published implementation, an installed `trellis` package, for comparison.

Preprocessing, splats and limits are this package's own; conditioning, sampling and decoding are upstream's.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.compute import ComputeConfig
from pipeline.conditioning.background import Provider
from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import PreparedPicture, has_alpha, prepare_picture
from pipeline.conditioning.prompt import ImagesPrompt, Prompt, TextPrompt
from pipeline.errors import CheckpointError, NonFiniteOutput, OutOfMemory, PipelineError, UnsupportedPrompt
from pipeline.generator import CheckpointSource, generate_first
from pipeline.params import SamplerParams
from pipeline.request import Asset, Backend, Conditioning, OnStep, Request, ignore_steps
from pipeline.sampling.sample import Measurements, check_voxel_count
from pipeline.splats.splats import Splats
from pipeline.trellis.gaussians import activated_to_splats
from pipeline.weights.locate import locate

_INSTALL = (
    "clone https://github.com/microsoft/TRELLIS, run its setup.sh and put the clone on PYTHONPATH (the PyPI packages "
    "of that name are other software), or leave `backend: trellis` out"
)
# The pipeline for a prompt, and its method that generates, with the prompt already bound.
_EncodedPrompt = tuple[Any, Callable[..., dict[str, Any]]]


class BackendError(PipelineError):
    """An error of the `trellis` package: it is missing, it is another package of that name, or it failed."""


@dataclass(frozen=True, eq=False)
class UpstreamGenerator(Backend):
    """A backend of upstream's pipelines on one device, for images, for sentences or for both; one call at a time.

    The pipeline for images needs `remove_background`, too.
    """

    device: torch.device
    image: Any | None
    text: Any | None
    remove_background: MattingModels | None

    @staticmethod
    def load(
        compute: ComputeConfig, *, image: CheckpointSource | None = None, text: CheckpointSource | None = None,
        background_models: Sequence[str], background_provider: Provider = "cpu",
    ) -> "UpstreamGenerator":  # fmt: skip
        """Load upstream's pipelines for checkpoints in directories or in the local Hugging Face cache.

        Upstream reads whole checkpoints, with all decoders, and its image encoder through torch.hub.
        Raises BackendError if the package is missing, CheckpointError or BackgroundModelError.
        """
        if any(source is not None and source.overrides for source in (image, text)):
            raise CheckpointError("backend: trellis loads whole checkpoints; leave overrides out")
        image_pipeline = text_pipeline = remover = None
        if image is not None:
            image_pipeline = _pipeline("TrellisImageTo3DPipeline", image.checkpoint, compute.device)
            remover = MattingModels(background_models, background_provider)
        if text is not None:
            text_pipeline = _pipeline("TrellisTextTo3DPipeline", text.checkpoint, compute.device)
        return UpstreamGenerator(compute.device, image_pipeline, text_pipeline, remover)

    @property
    def supports_image(self) -> bool:
        """Whether there is an image checkpoint."""
        return self.image is not None

    @property
    def supports_text(self) -> bool:
        """Whether there is a text checkpoint."""
        return self.text is not None

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return False: upstream's pipelines keep their structures to themselves."""
        return False

    def warm_up_steps(self) -> Iterator[None]:
        """Generate one object of each kind, so that the first request is as fast as any other; yield after each."""
        return generate_first(self, self.device, image=self.supports_image, text=self.supports_text)

    def encode(self, prompt: Prompt) -> Conditioning[_EncodedPrompt]:
        """Cut out and frame the object of images; upstream encodes when it samples. Raises PromptError."""
        started = time.perf_counter()
        encoded, pictures = self._encode(prompt)
        return Conditioning(encoded, {"background": time.perf_counter() - started}, pictures)

    def sample(
        self, conditioning: Conditioning[_EncodedPrompt], request: Request, on_step: OnStep = ignore_steps
    ) -> Asset:
        """Generate one object. `on_step` is called after each sampler step and may raise Cancelled to stop.

        Raises EmptyStructure, TooManyVoxels, NonFiniteOutput, OutOfMemory, BackendError, or what on_step raises.
        """
        pipeline, run = conditioning.encoded
        structure, latents = request.sparse_structure_sampler_params, request.slat_sampler_params
        measurements, stages = Measurements(self.device), ExitStack()

        def enter(stage: str) -> None:
            stages.close()
            stages.enter_context(measurements.stage(stage))

        def keep_within_limit(sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def sample_limited(*args: Any, **options: Any) -> Tensor:
                coords = sample(*args, **options)
                measurements.voxels = len(coords)
                limit = request.voxel_limit
                note = ", and upstream cannot drop any" if limit is not None and limit.excess == "drop" else ""
                check_voxel_count(len(coords), limit, note)
                return coords

            return sample_limited

        with (
            stages,
            _wrapped(pipeline, "sample_sparse_structure", keep_within_limit),
            _watched(pipeline.sparse_structure_sampler, "structure", structure.steps, on_step, enter),
            _watched(pipeline.slat_sampler, "latents", latents.steps, on_step, enter),
        ):
            enter("conditioning")
            try:
                result = run(
                    seed=request.seed,
                    sparse_structure_sampler_params=_published_params(structure),
                    slat_sampler_params=_published_params(latents),
                    formats=["gaussian"],
                )
            except PipelineError:
                raise
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(f"the GPU's memory did not suffice for upstream: {error}") from None
            except Exception as error:  # upstream raises whatever its dependencies raise
                raise BackendError(f"the trellis package failed: {type(error).__name__}: {error}") from error
            splats = gaussian_to_splats(result["gaussian"][0])
        return Asset(splats, request.seed, measurements.voxels, measurements.seconds, pictures=conditioning.pictures)

    def _encode(self, prompt: Prompt) -> tuple[_EncodedPrompt, tuple[PreparedPicture, ...]]:
        if isinstance(prompt, TextPrompt):
            if self.text is None:
                raise UnsupportedPrompt("no text checkpoint is loaded; the phase needs text: {checkpoint: ...}")
            return (self.text, partial(self.text.run, prompt.filled)), ()
        if self.image is None or self.remove_background is None:
            raise UnsupportedPrompt("no image checkpoint is loaded; the phase needs image: {checkpoint: ...}")
        images = prompt.images if isinstance(prompt, ImagesPrompt) else (prompt,)
        # Upstream takes any alpha below 255 for a cut-out.
        prepared = tuple(prepare_picture(image, self.remove_background, has_alpha) for image in images)
        pictures = [one.picture for one in prepared]
        if isinstance(prompt, ImagesPrompt):
            run = partial(self.image.run_multi_image, pictures, preprocess_image=False, mode=prompt.combine)
        else:
            run = partial(self.image.run, pictures[0], preprocess_image=False)
        return (self.image, run), prepared


def _pipeline(class_name: str, reference: str, device: torch.device) -> Any:
    """Load upstream's pipeline of a checkpoint onto the device."""
    directory = locate(reference, "pipeline.json")
    try:
        pipelines = importlib.import_module("trellis.pipelines")
    except ImportError as error:
        raise BackendError(f"`backend: trellis` needs the trellis package ({error}): {_INSTALL}") from None
    if not hasattr(pipelines, class_name):
        raise BackendError(f"the trellis package at {pipelines.__file__} has no {class_name}: {_INSTALL}")
    try:
        pipeline = getattr(pipelines, class_name).from_pretrained(str(directory))
        pipeline.to(device)
    except Exception as error:  # upstream raises whatever its dependencies raise
        raise CheckpointError(
            f"the trellis package cannot load {directory} ({type(error).__name__}: {error}); it needs the whole "
            f"checkpoint, with all decoders: run `hf download {reference}`"
        ) from error
    return pipeline


@contextmanager
def _wrapped(owner: Any, method: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace a method of this one object by `wrap` of it, inside the block."""
    setattr(owner, method, wrap(getattr(owner, method)))
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def _watched(sampler: Any, stage: str, steps: int, on_step: OnStep, enter: Callable[[str], None]) -> Iterator[None]:
    """Report each step that the sampler takes inside the block, and enter its stage, and the one after."""
    done = 0

    def report(sample_once: Callable[..., Any]) -> Callable[..., Any]:
        def reported(*args: Any, **options: Any) -> Any:
            nonlocal done
            if done == 0:
                enter(stage)
            step = sample_once(*args, **options)
            done += 1
            on_step(stage, done, steps)
            if stage == "latents" and done == steps:
                enter("gaussians")
            return step

        return reported

    with _wrapped(sampler, "sample_once", report):
        try:
            yield
        finally:
            # For several images, upstream sets methods on the sampler and leaves them there if it is interrupted.
            for leftover in ("_inference_model", "_old_inference_model"):
                vars(sampler).pop(leftover, None)


def _published_params(params: SamplerParams) -> dict[str, Any]:
    if params.reuse:
        raise BackendError("upstream cannot reuse velocities: leave acceleration out of phases with `backend: trellis`")
    return params.published()


def gaussian_to_splats(gaussian: Any) -> Splats:
    """Convert upstream's `Gaussian` to splats in the frame of its PLY files."""
    shape = gaussian.get_xyz.float(), gaussian.get_rotation.float(), gaussian.get_scaling.float()
    activated = (*shape, gaussian.get_opacity.float().flatten(), gaussian._features_dc.float().flatten(1))
    if not all(bool(values.isfinite().all()) for values in activated):
        raise NonFiniteOutput("the trellis package returned NaN or infinity")
    return activated_to_splats(*activated)
