"""The validator's score of a result, computed before it is sent, from the parts that a phase names."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from pipeline.conditioning.preprocessing import PICTURE_SIZE
from pipeline.conditioning.prompt import ImagePrompt, ImagesPrompt, Prompt, TextPrompt
from pipeline.errors import CheckpointError
from pipeline.scoring.image_alignment import ImageAlignment
from pipeline.scoring.memory import within_memory
from pipeline.scoring.quality import QualityNetwork
from pipeline.scoring.score import Part, Score
from pipeline.scoring.text_alignment import TextAlignment
from pipeline.scoring.view_similarity import ViewSimilarity
from pipeline.scoring.views import render_validator_views
from pipeline.splats.splats import Splats
from pipeline.weights.alexnet import locate_alexnet
from pipeline.weights.locate import SCORER
from pipeline.weights.scorers import IMAGE_ALIGNMENT, LPIPS, TEXT_ALIGNMENT

Network = TypeVar("Network")
Outcome = TypeVar("Outcome")
MeasureViews = Callable[[Tensor], float]


@dataclass(frozen=True, eq=False)
class ScoredViews:
    """The score of splats, and the views [16, 518, 518, 3] uint8 that it comes from, on the device."""

    score: Score
    views: Tensor


ScoreSplats = Callable[[Splats], ScoredViews]
"""Scores splats as a validator would decode them; may raise PipelineError."""


class Scorer(Protocol):
    """Scores results before they are sent; one call at a time."""

    def for_prompt(self, prompt: Prompt) -> ScoreSplats:
        """Encode a prompt, and return the function that scores its results. Raises PipelineError."""

    def warm_up(self) -> None:
        """Score something, so that the first result is scored as fast as any other."""


@dataclass(frozen=True)
class ScorerSources:
    """The parts of the score to compute, and the references of their networks, see pipeline.weights.scorers."""

    parts: tuple[Part, ...] = ("quality",)
    quality: str = SCORER
    text_alignment: str = TEXT_ALIGNMENT
    image_alignment: str = IMAGE_ALIGNMENT
    lpips: str = LPIPS


@dataclass(frozen=True, eq=False)
class ValidatorScorer(Scorer):
    """Splats -> the parts of a validator's score, from 16 views that are rendered once.

    A network that is None leaves its part out; `missing` says why each of those is missing that were asked for.
    """

    device: torch.device
    quality: QualityNetwork | None = None
    text_alignment: TextAlignment | None = None
    image_alignment: ImageAlignment | None = None
    similarity: ViewSimilarity | None = None
    missing: tuple[str, ...] = ()

    @staticmethod
    def load(sources: ScorerSources, device: torch.device, *, text: bool, image: bool) -> "ValidatorScorer":
        """Load the networks that score results of sentences, of images or of both, onto a device.

        A part whose files are missing or damaged is left out, and named in `missing`, with the command that helps.
        """
        missing: list[str] = []

        def load(part: Part, network: Callable[[], Network], *, wanted: bool = True) -> Network | None:
            if part not in sources.parts or not wanted:
                return None
            try:
                return network()
            except CheckpointError as error:
                missing.append(f"{part}: {error}")
                return None

        return ValidatorScorer(
            device,
            load("quality", lambda: QualityNetwork.load(sources.quality, device)),
            load("alignment", lambda: TextAlignment.load(sources.text_alignment, device), wanted=text),
            load("alignment", lambda: ImageAlignment.load(sources.image_alignment, device), wanted=image),
            load("similarity", lambda: ViewSimilarity.load(locate_alexnet(sources.lpips), device)),
            missing=tuple(missing),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no network at all."""
        networks = (self.quality, self.text_alignment, self.image_alignment, self.similarity)
        return all(network is None for network in networks)

    def for_prompt(self, prompt: Prompt) -> ScoreSplats:
        """Encode a prompt, and return the function that scores its results; of several images, the first counts.

        Raises OutOfMemory, as the function does, which also raises NonFiniteOutput if the splats have no finite extent.
        """
        measure_alignment = within_memory(lambda: self._alignment(prompt), "scoring")
        return lambda splats: within_memory(lambda: self._score(splats, measure_alignment), "scoring")

    def warm_up(self) -> None:
        """Score two gaussians with every network."""
        means = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
        splats = Splats(means, torch.ones(2, 4), means - 3, means[:, 0], means)
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        for prompt in (TextPrompt("a red ball"), ImagePrompt(picture, picture.tobytes())):
            self.for_prompt(prompt)(splats)

    @torch.inference_mode()
    def _alignment(self, prompt: Prompt) -> MeasureViews | None:
        """Encode the prompt for the network of its kind; return None without one."""
        if isinstance(prompt, TextPrompt):
            if self.text_alignment is None:
                return None
            return partial(self.text_alignment.measure, prompt=self.text_alignment.encode(prompt.text))
        if self.image_alignment is None:
            return None
        image = prompt.images[0] if isinstance(prompt, ImagesPrompt) else prompt
        return partial(self.image_alignment.measure, prompt=self.image_alignment.encode(image.image))

    @torch.inference_mode()
    def _score(self, splats: Splats, measure_alignment: MeasureViews | None) -> ScoredViews:
        views = render_validator_views(splats.to(self.device))
        ssim, lpips = self.similarity.measure(views) if self.similarity else (None, None)
        score = Score(
            quality=self.quality.measure(views) if self.quality else None,
            alignment=measure_alignment(views) if measure_alignment else None,
            ssim=ssim,
            lpips=lpips,
        )
        return ScoredViews(score, views)
