"""Further seeds for a request of which no object is valid yet."""

import math
from collections.abc import Callable

import pytest

from pipeline import Asset, EmptyStructure, OutOfMemory, PipelineError, Request, SamplerParams, TextPrompt
from pipeline.scoring.best_of_n import MAX_ATTEMPTS, BestOfN, BestResult, candidate_seed, run_best_of_n
from pipeline.scoring.candidate import CandidateMaker, GenerationJob
from tests.support.generated import FakeBackend, FakeScorer, make_asset

PARAMS = SamplerParams(steps=1, cfg_strength=0.0)


class Making:
    """A backend, and a clock by which each object takes a second; `outcome` tells what a seed ends in."""

    def __init__(self, outcome: Callable[[int], int | PipelineError]) -> None:
        self.outcome = outcome
        self.seeds: list[int] = []

    def run(self, *, scored: bool, seconds: float = math.inf) -> BestResult:
        scorer = FakeScorer(lambda _: 0.5) if scored else None
        job = GenerationJob("x", Request(TextPrompt("x"), 5, PARAMS, PARAMS))
        maker = CandidateMaker(FakeBackend(self.generate), scorer, self.now)
        return run_best_of_n(maker, job, BestOfN(job.request, seconds=seconds), now=self.now)

    def now(self) -> float:
        return float(len(self.seeds))

    def generate(self, request: Request, _on_step: object) -> Asset:
        self.seeds.append(request.seed)
        outcome = self.outcome(request.seed)
        if isinstance(outcome, PipelineError):
            raise outcome
        return make_asset(request, outcome)


@pytest.mark.parametrize("scored", [True, False])
def test_an_invalid_object_is_made_again_with_the_next_seed_while_there_is_time(scored: bool) -> None:
    made = Making(lambda seed: EmptyStructure("none") if seed == 5 else 6999 if len(made.seeds) < 4 else 7000)
    best = made.run(scored=scored)
    assert made.seeds == [candidate_seed(5, index) for index in range(4)]
    assert (best.problem, best.asset.seed) == ("", made.seeds[-1])
    assert [bool(candidate.problem) for candidate in best.candidates] == [True, True, True, False]


@pytest.mark.parametrize("scored", [True, False])
def test_attempts_end_with_their_number_and_with_the_time(scored: bool) -> None:
    made = Making(lambda _seed: 6999)
    assert "at least 7000" in made.run(scored=scored).problem
    assert len(made.seeds) == MAX_ATTEMPTS
    made = Making(lambda _seed: 6999)
    made.run(scored=scored, seconds=3.5)
    assert len(made.seeds) == 3


def test_what_any_seed_would_meet_is_not_tried_again() -> None:
    made = Making(lambda _seed: OutOfMemory("no"))
    with pytest.raises(OutOfMemory):
        made.run(scored=False)
    assert made.seeds == [5]
