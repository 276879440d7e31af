"""A request of which several candidates are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from PIL import Image

from pipeline import (
    STAGES,
    Asset,
    Attempt,
    FormatError,
    ImagePrompt,
    OnStep,
    Prompt,
    Request,
    SamplerParams,
    Splats,
)
from pipeline.request import Conditioning, ignore_steps
from pipeline.scoring.best_of_n import BestOfN, BestResult, candidate_seed, run_best_of_n
from pipeline.scoring.candidate import CandidateMaker, FinishedCandidate, GenerationJob
from pipeline.splats.container import Container, PackedSplats
from tests.support.generated import FakeScorer

PARAMS = SamplerParams(steps=1, cfg_strength=0.0)


REQUEST = Request(ImagePrompt(Image.new("RGB", (4, 4)), b"picture"), 11, PARAMS, PARAMS)


SEEDS = tuple(candidate_seed(11, index) for index in range(5))


def cloud(seed: int, count: int = 7000) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator),
        quaternions=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), -4.0),
        opacity_logits=torch.zeros(count),
        f_dc=torch.full((count, 3), float(seed)),
    )


def pack(splats: Splats) -> PackedSplats:
    return PackedSplats(b"packed", splats)


Pack = Callable[[Splats], PackedSplats]


@dataclass(frozen=True)
class PackedBy(Container):
    """A container whose files a function of the test makes."""

    function: Pack = pack

    def pack(self, splats: Splats) -> PackedSplats:
        return self.function(splats)


@dataclass
class Search:
    """A request, with the one worker that makes its candidates."""

    maker: CandidateMaker
    job: GenerationJob
    choice: BestOfN
    seconds: list[float] = field(default_factory=list)

    def make_one(self) -> None:
        """Make another candidate if it is wanted."""
        if self.wants_another:
            finished = self.maker.make(self.job, self.choice.begin(self.maker.now(), "whole"))
            self.seconds.append(finished.candidate.seconds)
            self.choice.finish(finished)

    @property
    def wants_another(self) -> bool:
        mean = sum(self.seconds) / len(self.seconds) if self.seconds else 0.0
        return self.choice.wants(self.maker.now(), lambda _: mean) is not None

    def run(self, on_step: OnStep = ignore_steps) -> BestResult:
        return run_best_of_n(self.maker, self.job, self.choice, on_step, self.maker.now)


@dataclass
class ScriptedModels:
    """A backend and a scorer with a clock of their own; `outcomes` by index: a quality, or what is raised."""

    outcomes: Mapping[int, float | Exception]
    seconds: tuple[float, ...] = (1.0,)
    counts: Mapping[int, int] = field(default_factory=dict)
    refusal: Exception | None = None
    now: float = 100.0
    encoded: int = 0
    asked: list[int] = field(default_factory=list)

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        assert prompt is not None
        self.encoded += 1
        if self.refusal is not None:
            raise self.refusal
        return Conditioning(None, {"background": 0.25, "conditioning": 0.5})

    def sample(self, conditioning: Conditioning[None], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        assert isinstance(conditioning, Conditioning)
        index = len(self.asked)
        self.asked.append(request.seed)
        self.now += self.seconds[index % len(self.seconds)]
        on_step("structure", 1, 1)
        outcome = self.outcomes[index]
        if isinstance(outcome, Exception):
            raise outcome
        seconds = dict.fromkeys(STAGES, 0.1) | {"background": 0.0, "conditioning": 0.0}
        return Asset(cloud(index, self.counts.get(index, 7000)), request.seed, 1, seconds)

    def score(self, splats: Splats) -> float:
        self.now += 0.5
        outcome = self.outcomes[int(splats.f_dc[0, 0])]
        assert not isinstance(outcome, Exception)
        return outcome

    def search(
        self,
        count: int,
        request: Request = REQUEST,
        pack: Pack = pack,
        scorer: FakeScorer | Literal["own"] | None = "own",
        **limits: float,
    ) -> Search:
        scorer = FakeScorer(self.score) if scorer == "own" else scorer
        maker = CandidateMaker(self, scorer, lambda: self.now)  # type: ignore[arg-type]
        return Search(maker, GenerationJob("t", request, PackedBy(function=pack)), BestOfN(request, count, **limits))

    def best(self, count: int, request: Request = REQUEST, pack: Pack = pack, **limits: float) -> BestResult:
        return self.search(count, request, pack, **limits).run()


def pack_if_near(splats: Splats) -> PackedSplats:
    if splats.f_dc[0, 0] == 0:
        raise FormatError("too far out")
    return pack(splats)


# With several workers.


def finished(seed: int, quality: float) -> FinishedCandidate:
    models = ScriptedModels({0: quality})
    return replace(models.search(1).maker.make(GenerationJob("t", REQUEST, PackedBy()), Attempt(seed)))
