"""The sections of a phase that say how results are scored, chosen and held back."""

from typing import Annotated, Literal

from pydantic import Field, GetCoreSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema, core_schema

import pipeline
from miner.config.phase_sections import PhaseSection


class CandidateSettings(PhaseSection):
    """The most candidates of one task, and the seconds from the start of the first within which they must be done.

    preview_steps: steps of the latents of previews, after which only the most promising candidates are finished; None
    makes every candidate whole.
    """

    count: int = Field(default=1, ge=1, le=1000)
    seconds: float = Field(default=20.0, gt=0, le=600, allow_inf_nan=False)
    preview_steps: int | None = Field(default=None, ge=1, le=100)

    @model_validator(mode="after")
    def _can_preview(self) -> "CandidateSettings":
        if self.preview_steps is not None and self.count < 3:
            raise ValueError("preview_steps needs a count of 3 or more: the first candidate is always made whole")
        return self


class ScorerSettings(PhaseSection):
    """The parts of the validator's score that are computed, and where the weights of each are.

    A reference is a directory or a Hugging Face id; that of lpips is the file of AlexNet, or its published name.
    """

    # YAML has lists, and no tuples.
    parts: Annotated[tuple[pipeline.Part, ...], Field(strict=False, min_length=1)] = ("quality",)
    weights: str = Field(default=pipeline.DEFAULT_SCORER, min_length=1)
    text_alignment: str = Field(default=pipeline.DEFAULT_TEXT_ALIGNMENT, min_length=1)
    image_alignment: str = Field(default=pipeline.DEFAULT_IMAGE_ALIGNMENT, min_length=1)
    lpips: str = Field(default=pipeline.DEFAULT_LPIPS, min_length=1)

    @field_validator("parts")
    @classmethod
    def _in_one_order(cls, parts: tuple[pipeline.Part, ...]) -> tuple[pipeline.Part, ...]:
        if len(set(parts)) < len(parts):
            raise ValueError("name each part once")
        return tuple(part for part in pipeline.PARTS if part in parts)

    def sources(self) -> pipeline.ScorerSources:
        """Return the same for the pipeline."""
        return pipeline.ScorerSources(self.parts, self.weights, self.text_alignment, self.image_alignment, self.lpips)


class GateSettings(PhaseSection):
    """The quality, or the whole score, below which a result is not sent; skipping its task costs no penalty."""

    quality: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    score: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_one_limit(self) -> "GateSettings":
        if (self.quality is None) == (self.score is None):
            raise ValueError("needs either quality or score, the number below which a result is withheld")
        return self


class _LimitOrAuto:
    """Validates the word auto, or else the keys of GateSettings; errors name these, as a union's would not."""

    @staticmethod
    def __get_pydantic_core_schema__(_source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        settings = handler.generate_schema(GateSettings)

        def validate(content: object, check: core_schema.ValidatorFunctionWrapHandler) -> object:
            if content == "auto":
                return content
            if not isinstance(content, dict | GateSettings):
                raise ValueError("must be auto, {quality: 0.6} or {score: 0.6}")
            return check(content)

        def serialise(gate: object, dump: core_schema.SerializerFunctionWrapHandler) -> object:
            return gate if gate == "auto" else dump(gate)

        return core_schema.no_info_wrap_validator_function(
            validate,
            settings,
            serialization=core_schema.wrap_serializer_function_ser_schema(serialise, schema=settings),
        )


Gate = Annotated[GateSettings | Literal["auto"], _LimitOrAuto]
"""A fixed limit, or auto: a result is sent if its chance to pass outweighs the penalty, see miner.tasks.gate."""
