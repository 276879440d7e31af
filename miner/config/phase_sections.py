"""The sections of a phase that say what generates, and how."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

import pipeline
from miner.config.loader import Section


class PhaseSection(Section):
    """A part of a phase file."""

    # Strict: `steps: true` or `steps: "30"` is a slip, not thirty.
    model_config = ConfigDict(strict=True)


class SamplerSettings(PhaseSection):
    """The parameters of one sampler, under upstream's names."""

    steps: int = Field(ge=1, le=1000)
    cfg_strength: float = Field(ge=0, allow_inf_nan=False)
    # YAML has lists, and no tuples.
    cfg_interval: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)
    rescale_t: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @field_validator("cfg_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        lo, hi = interval
        if not 0 <= lo <= hi <= 1:
            raise ValueError("must be two numbers with 0 <= low <= high <= 1")
        return interval


Role = Literal["sparse_structure_flow_model", "sparse_structure_decoder", "slat_flow_model", "slat_decoder_gs"]


def _check_template(template: str) -> str:
    if not pipeline.is_template(template):
        raise ValueError(f"needs {pipeline.SENTENCE_PLACE} once, where the sentence goes, and no other braces")
    return template


Template = Annotated[str, AfterValidator(_check_template)]


class CheckpointSettings(PhaseSection):
    """The checkpoint for prompts of one type, and networks that replace some of its own."""

    checkpoint: str = Field(min_length=1)
    overrides: dict[Role, str] = Field(default={})

    def source(self) -> pipeline.CheckpointSource:
        """Return the checkpoint and its replacements for the pipeline."""
        return pipeline.CheckpointSource(self.checkpoint, dict[str, str](self.overrides.items()))


class TextCheckpointSettings(CheckpointSettings):
    """The checkpoint for sentences, and the template in which it reads them, by default the bare sentence."""

    template: Template = pipeline.SENTENCE_PLACE


class BackgroundSettings(PhaseSection):
    """The models that remove backgrounds, what they run on, and how their cut-outs are chosen and mended.

    One model stands under `model`, several under `models`. See CutOutParams for the other keys.
    """

    model: str | None = None
    # YAML has lists, and no tuples.
    models: Annotated[tuple[str, ...], Field(strict=False)] = ()
    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    choose: Literal["rule", "first"] = "rule"
    unusable: Literal["refuse", "whole"] = "refuse"
    pieces: Literal["all", "largest"] | Annotated[float, Field(gt=0, lt=1)] = "all"
    clean_edges: bool = False
    faint: Literal["refuse", "scale"] = "refuse"

    @field_validator("model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        if model is not None and model not in pipeline.BACKGROUND_MODELS:
            raise ValueError(f"must be one of {', '.join(pipeline.BACKGROUND_MODELS)}")
        return model

    @field_validator("models")
    @classmethod
    def _all_known(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [model for model in models if model not in pipeline.BACKGROUND_MODELS]:
            raise ValueError(f"{', '.join(unknown)}: each must be one of {', '.join(pipeline.BACKGROUND_MODELS)}")
        if len(set(models)) < len(models):
            raise ValueError("name each model once")
        return models

    @model_validator(mode="after")
    def _names_models(self) -> "BackgroundSettings":
        if (self.model is None) == (not self.models):
            raise ValueError("needs either model: NAME or models: [NAME, NAME]; `model: null` removes an inherited one")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The models in their order."""
        return self.models or ((self.model,) if self.model is not None else ())


class FramingSettings(PhaseSection):
    """How the object of a picture is framed: the square's side over its own, and limits to its size in pixels."""

    margin: float = Field(default=1.2, ge=1, le=4, allow_inf_nan=False)
    min_side: int = Field(default=2, ge=2, le=1024)
    enlarge: int | None = Field(default=None, ge=16, le=1024)


class VoxelSettings(PhaseSection):
    """The most voxels that a structure may have, and what happens to larger ones."""

    count: int = Field(gt=0)
    excess: Literal["refuse", "drop"] = "refuse"

    def limit(self) -> pipeline.VoxelLimit:
        """Return the limit for the pipeline."""
        return pipeline.VoxelLimit(**dict(self))


class ExportSettings(PhaseSection):
    """Changes to the splats before they are written; none by default.

    extent: centre the object and scale its longest side to this length.
    """

    extent: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _always_upright(cls, content: Any) -> Any:
        if isinstance(content, dict) and "upright" in content:
            raise ValueError("leave upright out: what is submitted always stands upright")
        return content


class AccelerationSettings(PhaseSection):
    """Approximations that save time: products of 8-bit floats, and guided steps that reuse the last velocity."""

    fp8: bool = False
    reuse: int = Field(default=0, ge=0, le=4)


class TextToImageSettings(PhaseSection):
    """The diffusers model that draws sentences for the image checkpoint; checking its licence is up to the operator.

    Models distilled to few steps are run without guidance. Sentences are drawn in the template; of several drawings,
    the one with the best matte is taken first.
    """

    model: str = Field(min_length=1)
    steps: int = Field(default=4, ge=1, le=1000)
    guidance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    template: Template = pipeline.SENTENCE_PLACE
    drawings: int = Field(default=1, ge=1, le=16)
