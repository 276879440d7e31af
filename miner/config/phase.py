"""The settings of a phase: everything that shapes a result, typed."""

import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema, core_schema

import pipeline
from miner.config.loader import Section


class ModelsKey(NamedTuple):
    """What identifies models in memory: those that generate, those that cut out, and those that score, "" for none."""

    generation: str
    backgrounds: tuple[str, ...]
    scorer: str

    def serves(self, wanted: "ModelsKey") -> bool:
        """Return whether a phase with the wanted models can run with these, which may be more than it needs."""
        return (
            self.generation == wanted.generation
            and set(wanted.backgrounds) <= set(self.backgrounds)
            and wanted.scorer in ("", self.scorer)
        )

    def can_be_shared(self, other: "ModelsKey") -> bool:
        """Return whether one set of models can serve both: background models add up, scorers do not."""
        scorers = {self.scorer, other.scorer} - {""}
        return self.generation == other.generation and len(scorers) <= 1


class _Section(Section):
    # Strict: `steps: true` or `steps: "30"` is a slip, not thirty.
    model_config = ConfigDict(strict=True)


class SamplerSettings(_Section):
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


class CheckpointSettings(_Section):
    """The checkpoint for prompts of one type, and networks that replace some of its own."""

    checkpoint: str = Field(min_length=1)
    overrides: dict[Role, str] = Field(default={})

    def source(self) -> pipeline.CheckpointSource:
        """Return the checkpoint and its replacements for the pipeline."""
        return pipeline.CheckpointSource(self.checkpoint, dict[str, str](self.overrides.items()))


class TextCheckpointSettings(CheckpointSettings):
    """The checkpoint for sentences, and the template in which it reads them, by default the bare sentence."""

    template: Template = pipeline.SENTENCE_PLACE


class BackgroundSettings(_Section):
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


class FramingSettings(_Section):
    """How the object of a picture is framed: the square's side over its own, and limits to its size in pixels."""

    margin: float = Field(default=1.2, ge=1, le=4, allow_inf_nan=False)
    min_side: int = Field(default=2, ge=2, le=1024)
    enlarge: int | None = Field(default=None, ge=16, le=1024)


class VoxelSettings(_Section):
    """The most voxels that a structure may have, and what happens to larger ones."""

    count: int = Field(gt=0)
    excess: Literal["refuse", "drop"] = "refuse"

    def limit(self) -> pipeline.VoxelLimit:
        """Return the limit for the pipeline."""
        return pipeline.VoxelLimit(**dict(self))


class ExportSettings(_Section):
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


class AccelerationSettings(_Section):
    """Approximations that save time: products of 8-bit floats, and guided steps that reuse the last velocity."""

    fp8: bool = False
    reuse: int = Field(default=0, ge=0, le=4)


class TextToImageSettings(_Section):
    """The diffusers model that draws sentences for the image checkpoint; checking its licence is up to the operator.

    Models distilled to few steps are run without guidance. Sentences are drawn in the template; of several drawings,
    the one with the best matte is taken first.
    """

    model: str = Field(min_length=1)
    steps: int = Field(default=4, ge=1, le=1000)
    guidance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    template: Template = pipeline.SENTENCE_PLACE
    drawings: int = Field(default=1, ge=1, le=16)


class CandidateSettings(_Section):
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


class ScorerSettings(_Section):
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


class GateSettings(_Section):
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


class Phase(_Section):
    """A phase file merged with those that it extends; `note` and `hypothesis` are for people."""

    note: str = ""
    hypothesis: str = ""
    image: CheckpointSettings | None = None
    text: TextCheckpointSettings | None = None
    sparse_structure_sampler_params: SamplerSettings
    slat_sampler_params: SamplerSettings
    background: BackgroundSettings
    framing: FramingSettings = FramingSettings()
    text_to_image: TextToImageSettings | None = None
    max_voxels: VoxelSettings | None = None
    export: ExportSettings = ExportSettings()
    backend: Literal["native", "trellis"] = "native"
    acceleration: AccelerationSettings = AccelerationSettings()
    candidates: CandidateSettings = CandidateSettings()
    scorer: ScorerSettings | None = None
    gate: Gate | None = None

    @model_validator(mode="after")
    def _can_be_loaded(self) -> "Phase":
        if self.image is None and self.text is None:
            raise ValueError("needs image: {checkpoint: ...}, text: {checkpoint: ...}, or both")
        if self.backend == "trellis" and any(section.overrides for section in (self.image, self.text) if section):
            raise ValueError("backend: trellis loads whole checkpoints; leave overrides out")
        if self.text_to_image is not None and self.text is not None:
            raise ValueError("text and text_to_image: sentences go one way or the other; leave one of the two out")
        if self.text_to_image is not None and self.image is None:
            raise ValueError("text_to_image needs image: {checkpoint: ...}, which makes objects of what it draws")
        if self.scorer is None and self.candidates.count > 1:
            raise ValueError("candidates.count: only 1 is allowed without scorer: {}, which tells which one is best")
        self._check_previews()
        self._check_gate()
        return self

    def _check_previews(self) -> None:
        steps, whole = self.candidates.preview_steps, self.slat_sampler_params.steps
        if steps is not None and steps >= whole:
            raise ValueError(
                f"candidates.preview_steps: {steps} is as much work as a whole candidate, since "
                f"slat_sampler_params.steps is {whole}; take fewer or leave it out"
            )

    def _check_gate(self) -> None:
        if self.gate is None:
            return
        if self.scorer is None:
            raise ValueError("gate needs scorer: {}, which tells the quality")
        if self.gate == "auto":
            if self.scorer.parts == ("similarity",):
                raise ValueError("gate: auto needs quality or alignment among scorer.parts")
            return
        if self.gate.quality is not None and "quality" not in self.scorer.parts:
            raise ValueError("gate.quality needs quality among scorer.parts")
        if self.gate.score is not None and self.scorer.parts != pipeline.PARTS:
            raise ValueError(f"gate.score needs scorer: {{parts: [{', '.join(pipeline.PARTS)}]}}")

    @property
    def samplers(self) -> tuple[pipeline.SamplerParams, pipeline.SamplerParams]:
        """The parameters of the sparse-structure sampler and of the structured-latent sampler, for the pipeline."""
        reuse = self.acceleration.reuse
        structure = pipeline.SamplerParams(**dict(self.sparse_structure_sampler_params), reuse=reuse)
        return structure, pipeline.SamplerParams(**dict(self.slat_sampler_params), reuse=reuse)

    @property
    def template(self) -> str:
        """The template in which sentences are read or drawn."""
        route = self.text or self.text_to_image
        return route.template if route else pipeline.SENTENCE_PLACE

    @property
    def text_to_image_params(self) -> pipeline.TextToImageParams:
        """How sentences are drawn, for the pipeline."""
        if self.text_to_image is None:
            return pipeline.TextToImageParams()
        drawing = self.text_to_image
        return pipeline.TextToImageParams(drawing.steps, drawing.guidance, drawing.drawings, self.cut_out)

    @property
    def cut_out(self) -> pipeline.CutOutParams:
        """How the objects of pictures are cut out and framed, for the pipeline."""
        background = self.background.model_dump(exclude={"model", "models", "provider"})
        return pipeline.CutOutParams(self.background.names, **background, **dict(self.framing))

    @property
    def takes_text(self) -> bool:
        """Whether sentences can be generated from."""
        return self.text is not None or self.text_to_image is not None

    @property
    def unanswered(self) -> tuple[Literal["text", "image"], ...]:
        """The types of tasks that get the empty result for want of a checkpoint."""
        return (*(() if self.takes_text else ("text",)), *(() if self.image else ("image",)))

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The references of the checkpoints that the phase names."""
        return tuple(section.checkpoint for section in (self.image, self.text) if section)

    @property
    def models_key(self) -> ModelsKey:
        """The models in memory that the phase runs with."""
        whole = dict.fromkeys(("image", "backend"), True)
        parts = {"text": {"checkpoint", "overrides"}, "background": {"provider"}, "text_to_image": {"model"}}
        content = self.model_dump(mode="json", include={**whole, **parts}) | {"fp8": self.acceleration.fp8}
        scorer = self.scorer.model_dump_json() if self.scorer else ""
        return ModelsKey(json.dumps(content, sort_keys=True), self.background.names, scorer)
