"""Generation seen from outside: a request, an encoded prompt, the generated asset, and the interface of backends."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from pipeline.conditioning.preprocessing import PreparedPicture
from pipeline.conditioning.prompt import Prompt
from pipeline.params import SamplerParams, TextToImageParams, VoxelLimit
from pipeline.splats.splats import Splats

BACKGROUND_STAGE = "background"
STAGES = (BACKGROUND_STAGE, "conditioning", "structure", "latents", "gaussians")
# Precedes the others where a text-to-image model draws the sentence.
PICTURE_STAGE = "picture"
# Called after each sampler step with the stage, the number of steps done and the number of steps.
OnStep = Callable[[str, int, int], None]
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Request:
    """A prompt, the seed of all noise, the settings of both samplers and a limit to the structure.

    text_to_image_params: used for sentences where a text-to-image model is loaded.
    structure: the voxels [N, 3] of an earlier asset of the same prompt, on which only latents are sampled; None samples
    a structure first. With the seed of that asset, the latents are those that it would have had with these settings.
    """

    prompt: Prompt
    seed: int
    sparse_structure_sampler_params: SamplerParams
    slat_sampler_params: SamplerParams
    voxel_limit: VoxelLimit | None = None
    text_to_image_params: TextToImageParams = field(default_factory=TextToImageParams)
    structure: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Conditioning(Generic[Encoded]):
    """An encoded prompt, from which a backend samples any number of objects.

    encoded: what the backend samples from; each backend has its own type.
    seconds: time of each stage of the encoding.
    pictures: what was encoded, with the mattes; none for a sentence.
    """

    encoded: Encoded
    seconds: Mapping[str, float]
    pictures: tuple[PreparedPicture, ...] = ()


@dataclass(frozen=True, eq=False)
class Asset:
    """A generated object, its seed, its occupied voxels and the seconds that each stage took.

    structure: the positions of the voxels, [N, 3] uint8 on the CPU; None if the backend does not tell them.
    seconds: a key for each of STAGES, preceded by PICTURE_STAGE where a sentence was drawn. Those of the encoding are
    zero unless they were added: of several assets of one prompt, only the first has them.
    pictures: those of its conditioning.
    """

    splats: Splats
    seed: int
    voxels: int
    seconds: dict[str, float]
    structure: Tensor | None = None
    pictures: tuple[PreparedPicture, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Time of all stages together."""
        return sum(self.seconds.values())

    def with_added_seconds(self, seconds: Mapping[str, float]) -> "Asset":
        """Return the asset with the seconds of other work added, stage by stage."""
        return replace(self, seconds={stage: own + seconds.get(stage, 0.0) for stage, own in self.seconds.items()})


def ignore_steps(_stage: str, _done: int, _steps: int) -> None:
    """Do nothing; an OnStep for callers that do not report progress."""


class Backend(Protocol):
    """An implementation of generation: prompts are encoded once, then objects are sampled; one call at a time."""

    @property
    def supports_image(self) -> bool:
        """Whether it generates from images."""

    @property
    def supports_text(self) -> bool:
        """Whether it generates from sentences."""

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return whether objects of a prompt can be sampled on given structures; see `Request.structure`."""

    def warm_up_steps(self) -> Iterator[None]:
        """Generate one object of each kind, so that the first request is as fast as any other.

        Yields after each part of the work, so that the owner of the device may do other work in between.
        """

    def warm_up(self) -> None:
        """Take all steps of the warm-up."""
        for _ in self.warm_up_steps():
            pass

    def encode(self, prompt: Prompt) -> Conditioning[Any]:
        """Encode a prompt, for any number of samples. Raises PromptError."""

    def sample(self, conditioning: Conditioning[Any], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Generate one object from an encoded prompt with the request's seed and settings.

        `on_step` is called after each sampler step and may raise Cancelled to stop. The asset's seconds are those of
        sampling alone. Raises PipelineError, or what on_step raises.
        """

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Encode the request's prompt and generate one object from it; the asset has the seconds of both.

        Raises what `encode` and `sample` raise.
        """
        conditioning = self.encode(request.prompt)
        return self.sample(conditioning, request, on_step).with_added_seconds(conditioning.seconds)
