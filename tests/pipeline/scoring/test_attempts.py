"""Further seeds for a request of which no object is valid yet."""

import math
from collections.abc import Callable

import pytest

from pipeline import Asset, EmptyStructure, OutOfMemory, PipelineError, Request, SamplerParams, TextPrompt
from pipeline.scoring.best_of_n import MAX_ATTEMPTS, BestOfN, candidate_seed
from pipeline.splats.container import Container
from tests.support.generated import FakeBackend, FakeScorer, make_asset

PARAMS = SamplerParams(steps=1, cfg_strength=0.0)


class Making:
    """A backend, and a clock by which each object takes a second; `outcome` tells what a seed ends in."""

    def __init__(self, outcome: Callable[[int], int | PipelineError]) -> None:
        self.outcome = outcome
        self.seeds: list[int] = []

    def search(self, *, scored: bool, seconds: float = math.inf) -> BestOfN:
        scorer = FakeScorer(lambda _: 0.5) if scored else None
        request = Request(TextPrompt("x"), 5, PARAMS, PARAMS)
        backend = FakeBackend(self.generate)
        return BestOfN(
            backend, request, Container().pack, scorer, count=1, seconds=seconds, now=lambda: float(len(self.seeds))
        )

    def generate(self, request: Request, _on_step: object) -> Asset:
        self.seeds.append(request.seed)
        outcome = self.outcome(request.seed)
        if isinstance(outcome, PipelineError):
            raise outcome
        return make_asset(request, outcome)


@pytest.mark.parametrize("scored", [True, False])
def test_an_invalid_object_is_made_again_with_the_next_seed_while_there_is_time(scored: bool) -> None:
    made = Making(lambda seed: EmptyStructure("none") if seed == 5 else 6999 if len(made.seeds) < 4 else 7000)
    best = made.search(scored=scored).run()
    assert made.seeds == [candidate_seed(5, index) for index in range(4)]
    assert (best.problem, best.asset.seed) == ("", made.seeds[-1])
    assert [bool(candidate.problem) for candidate in best.candidates] == [True, True, True, False]


@pytest.mark.parametrize("scored", [True, False])
def test_attempts_end_with_their_number_and_with_the_time(scored: bool) -> None:
    made = Making(lambda _seed: 6999)
    assert "at least 7000" in made.search(scored=scored).run().problem
    assert len(made.seeds) == MAX_ATTEMPTS
    made = Making(lambda _seed: 6999)
    made.search(scored=scored, seconds=3.5).run()
    assert len(made.seeds) == 3


def test_what_any_seed_would_meet_is_not_tried_again() -> None:
    made = Making(lambda _seed: OutOfMemory("no"))
    with pytest.raises(OutOfMemory):
        made.search(scored=False).run()
    assert made.seeds == [5]
