"""What is asked of the generator, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.conditioning.prompt import Prompt
from pipeline.params import SamplerParams, TextToImageParams, VoxelLimit
from pipeline.splats.splats import Splats

STAGES = ("background", "conditioning", "structure", "latents", "gaussians")
# Comes before the others where a sentence is drawn first.
PICTURE_STAGE = "picture"
# Called after each sampler step with the stage, the steps done and the number of steps.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to generate: a prompt, the seed of all noise, the two samplers' settings, a limit to the structure.

    text_to_image_params: for sentences, where a text-to-image model is loaded.
    """

    prompt: Prompt
    seed: int
    sparse_structure_sampler_params: SamplerParams
    slat_sampler_params: SamplerParams
    voxel_limit: VoxelLimit | None = None
    text_to_image_params: TextToImageParams = TextToImageParams()


@dataclass(frozen=True, eq=False)
class Asset:
    """A generated object and the numbers of its making; seconds has a key for each of STAGES, and
    PICTURE_STAGE first where a sentence was drawn.

    Of a batch, each asset has an equal share of the seconds.
    """

    splats: Splats
    seed: int
    voxels: int
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Time of all stages together."""
        return sum(self.seconds.values())


def ignore_steps(_stage: str, _done: int, _steps: int) -> None:
    """An OnStep for when nobody watches."""
