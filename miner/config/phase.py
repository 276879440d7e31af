"""The settings of a phase: everything that shapes a result, typed."""

import json
from typing import Literal, NamedTuple

from pydantic import model_validator

import pipeline
from miner.config.choice_sections import CandidateSettings, Gate, ScorerSettings
from miner.config.phase_sections import (
    AccelerationSettings,
    BackgroundSettings,
    CheckpointSettings,
    ExportSettings,
    FramingSettings,
    PhaseSection,
    SamplerSettings,
    TextCheckpointSettings,
    TextToImageSettings,
    VoxelSettings,
)


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


class Phase(PhaseSection):
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
