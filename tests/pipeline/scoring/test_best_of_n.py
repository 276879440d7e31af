"""Best of N: which candidate is taken, what ends the search, and that a candidate is what the generator makes."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline import (
    Cancelled,
    EmptyForeground,
    EmptyStructure,
    FormatError,
    OutOfMemory,
    PipelineError,
    Prompt,
    Score,
    Splats,
    TextPrompt,
    UnsupportedPrompt,
)
from pipeline.scoring.best_of_n import BestOfN, candidate_seed
from pipeline.splats.container import PackedSplats
from tests.support.generated import FakeScorer
from tests.support.searching import REQUEST, SEEDS, ScriptedModels, pack, pack_if_near


def test_the_best_is_taken_and_every_number_is_told() -> None:
    models = ScriptedModels({0: 0.4, 1: 0.9, 2: 0.6}, seconds=(1.0, 2.0, 3.0))
    best = models.best(3)
    assert (best.asset.seed, best.score, best.problem) == (SEEDS[1], Score(0.9), "")
    assert [c.seed for c in best.candidates] == models.asked == list(SEEDS[:3])
    assert [c.score for c in best.candidates] == [Score(0.4), Score(0.9), Score(0.6)]
    assert [c.seconds for c in best.candidates] == [1.5, 2.5, 3.5]
    assert not any(c.problem for c in best.candidates)


def test_of_equals_the_first_is_taken() -> None:
    assert ScriptedModels({0: 0.5, 1: 0.5}).best(2).asset.seed == 11


def test_seeds_follow_from_the_requests_alone_and_differ() -> None:
    for seed in (0, 11, 2**31 - 1, 2**62):
        seeds = [candidate_seed(seed, index) for index in range(64)]
        assert seeds[0] == seed
        assert len(set(seeds)) == 64
        assert all(0 <= other < 2**31 for other in seeds[1:])
    assert candidate_seed(5, 3) == candidate_seed(5, 3) != candidate_seed(6, 3)


@pytest.mark.parametrize(
    ("limits", "made"),
    [
        ({}, 5),
        # 1.5 s each: the fourth would end at 6.0.
        ({"seconds": 6.0}, 4),
        ({"seconds": 5.9}, 3),
        ({"deadline": 104.6}, 3),
        ({"deadline": 104.4}, 2),
        ({"seconds": 3.0, "deadline": 104.6}, 2),
        # Too late already: one is always made.
        ({"deadline": 99.0}, 1),
        ({"seconds": 0.1}, 1),
    ],
)
def test_no_candidate_is_begun_that_would_not_be_done_in_time(limits: dict[str, float], made: int) -> None:
    models = ScriptedModels(dict.fromkeys(range(5), 0.5))
    assert len(models.best(5, **limits).candidates) == made


def test_the_expected_time_is_the_mean_of_those_before() -> None:
    # 1.5 and 9.5 s: another 5.5 s would end at 16.5.
    for seconds, made in ((16.5, 3), (16.4, 2)):
        models = ScriptedModels(dict.fromkeys(range(3), 0.5), seconds=(1.0, 9.0, 1.0))
        assert len(models.best(3, seconds=seconds).candidates) == made


def test_the_seconds_count_from_the_first_candidates_beginning_and_a_wait_between_counts() -> None:
    models = ScriptedModels(dict.fromkeys(range(5), 0.5))
    search = models.search(5, seconds=6.0)
    models.now += 50
    search.make_one()
    assert search.wants_another
    models.now += 4.0
    # Another task had the device: there is no time left, and nothing is made.
    search.make_one()
    assert len(search.choice.best().candidates) == len(models.asked) == 1


def test_an_object_that_cannot_be_made_or_is_invalid_never_wins() -> None:
    models = ScriptedModels({0: EmptyStructure("nothing"), 1: 0.99, 2: 0.1}, counts={1: 6999})
    best = models.best(3)
    assert (best.asset.seed, best.score) == (SEEDS[2], Score(0.1))
    problems = [c.problem for c in best.candidates]
    assert problems[0] == "EmptyStructure: nothing"
    assert "6999 gaussians" in problems[1]
    assert [c.score for c in best.candidates] == [None, None, Score(0.1)]


def test_an_invalid_object_is_better_than_none_and_is_not_scored() -> None:
    best = ScriptedModels({0: EmptyStructure("nothing"), 1: 0.9}, counts={1: 6999}).best(2, seconds=2)
    assert (best.asset.seed, best.score) == (SEEDS[1], None)
    assert best.problem == best.candidates[1].problem
    assert "6999 gaussians" in best.problem


def test_an_object_that_cannot_be_packed_never_wins() -> None:
    best = ScriptedModels({0: 0.9, 1: 0.1}).best(2, pack=pack_if_near)
    assert (best.asset.seed, best.candidates[0].problem) == (SEEDS[1], "FormatError: too far out")
    with pytest.raises(FormatError, match="too far out"):
        ScriptedModels({0: 0.9}).best(1, pack=pack_if_near, seconds=1)


def test_nothing_made_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no candidate was made"):
        BestOfN(REQUEST).best()


def test_an_object_that_could_not_be_scored_is_sent_if_there_is_no_other() -> None:
    def fail(_: Splats) -> float:
        raise OutOfMemory("no room")

    models = ScriptedModels({0: 0.9, 1: 0.1})
    best = models.search(2, scorer=FakeScorer(fail)).run()
    assert (best.asset.seed, best.score, best.problem) == (11, None, "")
    assert best.candidates[0].problem == "not scored, OutOfMemory: no room"
    assert best.candidates[0].is_unscored


@pytest.mark.parametrize("stage", ["encode", "sample", "pack"])
@pytest.mark.parametrize("is_scored", [True, False])
def test_memory_that_does_not_suffice_is_told_whatever_the_stage(stage: str, is_scored: bool) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def fail(_: Splats) -> PackedSplats:
        raise error

    models = ScriptedModels({0: error if stage == "sample" else 0.9})
    if stage == "encode":
        models.refusal = error
    scorer = FakeScorer(models.score) if is_scored else None
    search = models.search(1, pack=fail if stage == "pack" else pack, scorer=scorer)
    with pytest.raises(OutOfMemory, match=r"too little memory for this task \(CUDA out of memory\): lower max_voxels"):
        search.run()


def test_a_candidate_for_which_memory_did_not_suffice_does_not_cost_the_others() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    best = ScriptedModels({0: 0.4, 1: error}).best(2)
    assert (best.asset.seed, best.break_off) == (11, None)
    assert best.candidates[1].fate == "failed"


def test_a_scorer_that_breaks_does_not_cost_the_result() -> None:
    def fail(splats: Splats) -> float:
        if splats.f_dc[0, 0] == 1:
            raise RuntimeError("no kernel image")
        return 0.3

    best = ScriptedModels({0: 0.9, 1: 0.1}).search(2, scorer=FakeScorer(fail)).run()
    assert (best.asset.seed, best.score) == (11, Score(0.3))
    assert best.candidates[1].problem == "not scored, RuntimeError: no kernel image"
    models = ScriptedModels({0: 0.9})
    assert models.search(1, scorer=FakeScorer(lambda _: 1 / 0)).run().asset.data == b"packed"


def test_a_scored_object_is_better_than_one_whose_score_is_not_a_number() -> None:
    best = ScriptedModels({0: math.nan, 1: 0.1}).best(2)
    assert best.asset.seed == SEEDS[1]


def test_every_candidate_has_a_fate() -> None:
    models = ScriptedModels({0: 0.4, 1: EmptyStructure("none"), 2: 0.8, 3: 0.9, 4: 0.1}, counts={3: 6999})
    fates = [candidate.fate for candidate in models.best(5).candidates]
    assert fates == ["beaten", "failed", "chosen", "invalid", "beaten"]
    assert [c.fate for c in ScriptedModels({0: 0.9}, counts={0: 6999}).best(1, seconds=1).candidates] == ["invalid"]


def test_if_none_can_be_made_the_first_error_is_told() -> None:
    models = ScriptedModels({0: EmptyStructure("first"), 1: OutOfMemory("second")})
    with pytest.raises(EmptyStructure, match="first"):
        models.best(2)
    assert len(models.asked) == 2


@pytest.mark.parametrize(
    ("prompt", "error", "candidates"),
    [
        (REQUEST.prompt, EmptyForeground("no object"), 1),
        (TextPrompt("a chair"), UnsupportedPrompt("no checkpoint"), 1),
        # Another seed draws another picture.
        (TextPrompt("a chair"), EmptyForeground("no object"), 3),
    ],
)
@pytest.mark.parametrize("encoding", [True, False])
def test_a_prompt_that_is_at_fault_is_not_tried_again(
    prompt: Prompt, error: PipelineError, candidates: int, encoding: bool
) -> None:
    models = ScriptedModels(dict.fromkeys(range(3), error), refusal=error if encoding else None)
    with pytest.raises(type(error)):
        models.best(3, replace(REQUEST, prompt=prompt))
    assert (models.encoded if encoding else len(models.asked)) == candidates


@pytest.mark.parametrize("error", [Cancelled("stopping"), RuntimeError("CUDA error")])
def test_whoever_stops_it_or_breaks_the_device_is_heard_at_once(error: Exception) -> None:
    models = ScriptedModels({0: 0.5, 1: error, 2: 0.9})
    search = models.search(3)
    search.make_one()
    with pytest.raises(type(error)):
        search.make_one()
    assert search.choice.has_valid
    assert search.choice.best().score == Score(0.5)
