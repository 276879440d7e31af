"""Previews of candidates: which are finished, what is recorded of the others, and what a finished one is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import (
    Attempt,
    BestOfN,
    Candidate,
    CandidateMaker,
    Container,
    EmptyStructure,
    FinishedCandidate,
    GenerationJob,
    Generator,
    ImagePrompt,
    Request,
    SamplerParams,
    Score,
    Stage,
    TextPrompt,
    run_best_of_n,
)
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.generated import FakeBackend, FakeScorer, make_asset, make_splats

PARAMS = SamplerParams(steps=3, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
SEEDS = tuple(candidate_seed(11, index) for index in range(6))
STRUCTURE = torch.zeros(4, 3, dtype=torch.uint8)
SECONDS: dict[Stage, float] = {"whole": 3.0, "preview": 2.0, "finish": 1.0}


def request_of_an_egg() -> Request:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((54, 10, 74, 118), fill=(200, 40, 40, 255))
    return Request(ImagePrompt(picture, picture.tobytes()), 11, PARAMS, PARAMS)


class Play:
    """A choice whose attempts all take SECONDS; previews and finished candidates have the qualities that are given."""

    def __init__(self, count: int, seconds: float, previews: Sequence[float | None], finished: Sequence[float]) -> None:
        self.choice = BestOfN(request_of_an_egg(), count, seconds, has_previews=True)
        self.previews, self.finished = (
            dict(zip(SEEDS, previews, strict=False)),
            dict(zip(SEEDS, finished, strict=False)),
        )
        self.now = 0.0
        self.made: list[tuple[Stage, int]] = []

    def run(self) -> "Play":
        while (stage := self.choice.wants(self.now, SECONDS.__getitem__)) is not None:
            self.take(self.choice.begin(self.now, stage))
        return self

    def take(self, attempt: Attempt) -> None:
        self.now += SECONDS[attempt.stage]
        self.made.append((attempt.stage, SEEDS.index(attempt.seed)))
        assert (attempt.structure is STRUCTURE) == (attempt.stage == "finish")
        quality = (self.previews if attempt.stage == "preview" else self.finished)[attempt.seed]
        seconds = SECONDS[attempt.stage]
        if quality is None:
            self.choice.finish(FinishedCandidate.failed(attempt.seed, seconds, EmptyStructure("none")))
        elif attempt.stage == "preview":
            candidate = Candidate(attempt.seed, seconds, Score(quality), fate="dropped", voxels=4)
            self.choice.finish(FinishedCandidate(candidate, structure=STRUCTURE))
        else:
            maker = CandidateMaker(FakeBackend(), FakeScorer(lambda _: quality))
            done = maker.make(GenerationJob("t", self.choice.request), Attempt(attempt.seed))
            self.choice.finish(replace(done, candidate=replace(done.candidate, seconds=seconds)))

    def fates(self) -> list[str]:
        return [candidate.fate for candidate in self.choice.best().candidates]


def test_all_others_are_previewed_while_one_can_be_finished_and_the_most_promising_is() -> None:
    play = Play(100, 10.5, [None, 0.2, 0.9, 0.4], [0.5, 0.0, 0.8]).run()
    assert play.made == [("whole", 0), ("preview", 1), ("preview", 2), ("preview", 3), ("finish", 2)]
    assert play.choice.best().asset.seed == SEEDS[2]
    assert play.fates() == ["beaten", "dropped", "chosen", "dropped"]
    # The seconds of both stages, and the score of the object that there is.
    finished = play.choice.best().candidates[2]
    assert (finished.seconds, finished.score) == (3.0, Score(0.8))


def test_with_time_left_the_next_best_are_finished_too() -> None:
    play = Play(4, 100.0, [None, 0.2, 0.9, 0.4], [0.5, 0.1, 0.3, 0.45]).run()
    assert play.made[4:] == [("finish", 2), ("finish", 3), ("finish", 1)]
    # A preview only promises.
    assert play.choice.best().asset.seed == SEEDS[0]
    assert play.fates() == ["chosen", "beaten", "beaten", "beaten"]


def test_without_time_for_a_preview_and_its_end_there_is_one_candidate() -> None:
    play = Play(4, 5.5, [None, 0.9], [0.5]).run()
    assert play.made == [("whole", 0)]


def test_a_preview_that_fails_is_no_more_than_that() -> None:
    play = Play(3, 9.0, [None, None, 0.9], [0.5, 0.0, 0.8]).run()
    assert play.made == [("whole", 0), ("preview", 1), ("preview", 2), ("finish", 2)]
    assert play.fates() == ["beaten", "failed", "chosen"]


def test_a_preview_that_is_lost_is_made_again_and_so_is_its_end() -> None:
    play = Play(2, 100.0, [None, 0.9], [0.5, 0.8])
    play.take(play.choice.begin(0.0, "whole"))
    for stage in ("preview", "finish"):
        assert play.choice.wants(play.now, SECONDS.__getitem__) == stage
        lost = play.choice.begin(play.now, stage)
        assert play.choice.wants(play.now, SECONDS.__getitem__) is None
        play.choice.lose(lost.seed)
        assert play.choice.wants(play.now, SECONDS.__getitem__) == stage
        again = play.choice.begin(play.now, stage)
        assert again is lost
        play.take(again)
    assert play.choice.best().asset.seed == SEEDS[1]


def test_a_preview_that_was_lost_and_does_not_fit_any_more_keeps_no_other_from_being_finished() -> None:
    play = Play(3, 10.0, [None, 0.9, 0.8], [0.5, 0.8, 0.0])
    play.take(play.choice.begin(0.0, "whole"))
    play.take(play.choice.begin(play.now, "preview"))
    lost = play.choice.begin(play.now, "preview")
    play.choice.lose(lost.seed)
    assert play.choice.wants(play.now, SECONDS.__getitem__) == "preview"
    play.now = 8.5
    assert play.choice.wants(play.now, SECONDS.__getitem__) == "finish"
    play.take(play.choice.begin(play.now, "finish"))
    assert play.choice.wants(play.now, SECONDS.__getitem__) is None
    assert play.choice.best().asset.seed == SEEDS[1]


def test_a_finished_candidate_is_what_its_seed_gives_alone(generator: Generator) -> None:
    request = request_of_an_egg()
    scorer = FakeScorer(lambda splats: float(splats.means.std()))
    job = GenerationJob("t", request, Container(), preview_steps=1)
    best = run_best_of_n(CandidateMaker(generator, scorer), job, BestOfN(request, 4, has_previews=True))
    assert {candidate.fate for candidate in best.candidates} == {"chosen", "beaten"}
    assert all(candidate.voxels for candidate in best.candidates)
    for candidate in best.candidates[1:3]:
        alone = CandidateMaker(generator, scorer).make(job, Attempt(candidate.seed))
        assert alone.candidate.score == candidate.score
    if best.asset.seed != request.seed:
        alone = CandidateMaker(generator, scorer).make(job, Attempt(best.asset.seed))
        assert alone.asset is not None
        assert best.asset.data == alone.asset.data
    # The structure was sampled for the preview.
    assert all(best.asset.seconds[stage] > 0 for stage in ("structure", "latents", "gaussians"))


@pytest.mark.parametrize("prompt", [TextPrompt("a chair"), request_of_an_egg().prompt])
def test_where_structures_cannot_be_given_previews_are_whole_candidates(prompt: TextPrompt | ImagePrompt) -> None:
    request = replace(request_of_an_egg(), prompt=prompt)
    maker = CandidateMaker(FakeBackend(lambda request, _: make_asset(request)), FakeScorer(lambda _: 0.5))
    best = run_best_of_n(maker, GenerationJob("t", request, preview_steps=1), BestOfN(request, 3, has_previews=True))
    assert [candidate.fate for candidate in best.candidates] == ["chosen", "beaten", "beaten"]
    assert best.asset.gaussians == len(make_splats())
