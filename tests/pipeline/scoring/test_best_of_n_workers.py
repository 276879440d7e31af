"""Best of N with several workers, any of which may be lost."""

import pickle
from weakref import WeakSet

import pytest

from pipeline import (
    EmptyStructure,
    Score,
)
from pipeline.scoring.best_of_n import MAX_ATTEMPTS, BestOfN
from pipeline.scoring.candidate import Candidate, FinishedCandidate
from tests.support.searching import REQUEST, SEEDS, finished


def begin(choice: BestOfN, now: float = 0.0) -> int:
    return choice.begin(now, "whole").seed


def wants_another(choice: BestOfN, now: float, seconds: float) -> bool:
    return choice.wants(now, lambda _: seconds) is not None


def test_those_in_the_making_count() -> None:
    choice = BestOfN(REQUEST, 3, seconds=10.0)
    assert [begin(choice, 100.0), begin(choice, 101.0)] == list(SEEDS[:2])
    assert wants_another(choice, 104.0, 6.0)
    assert not wants_another(choice, 104.0, 6.1)
    assert begin(choice, 104.0) == SEEDS[2]
    assert not wants_another(choice, 104.0, 0.1)
    for seed in (SEEDS[2], SEEDS[0], SEEDS[1]):
        choice.finish(finished(seed, 0.5))
    # Of equals the first, in whatever order they were done.
    assert choice.best().asset.seed == SEEDS[0]
    assert [candidate.seed for candidate in choice.best().candidates] == list(SEEDS[:3])


def test_of_all_files_only_those_of_the_best_are_kept() -> None:
    """Hundreds of candidates may be made of one task, of some megabytes each."""
    choice = BestOfN(REQUEST, 4)
    seeds, alive = [begin(choice) for _ in range(4)], WeakSet()
    for index, quality in ((2, 0.5), (0, 0.2), (3, 0.9), (1, 0.4)):
        made = finished(seeds[index], quality)
        alive.add(made.asset)
        choice.finish(made)
        del made
    assert list(alive) == [choice.best().asset]
    assert choice.best().asset.seed == seeds[3]
    assert [candidate.score for candidate in choice.best().candidates] == [Score(q) for q in (0.2, 0.4, 0.5, 0.9)]


def test_what_is_lost_is_made_again_before_anything_new() -> None:
    choice = BestOfN(REQUEST, 3)
    first, second = begin(choice), begin(choice)
    choice.lose(second)
    choice.lose(first)
    assert [begin(choice, 1.0), begin(choice, 1.0), begin(choice, 1.0)] == [first, second, SEEDS[2]]


def test_the_first_that_is_lost_is_made_again_whatever_the_time() -> None:
    choice = BestOfN(REQUEST, 1, deadline=1.0)
    choice.lose(begin(choice))
    assert wants_another(choice, 9.0, 5.0)


def test_attempts_beyond_the_count_are_made_one_after_the_other() -> None:
    choice = BestOfN(REQUEST)
    for _ in range(MAX_ATTEMPTS):
        assert wants_another(choice, 0.0, 1.0)
        seed = begin(choice)
        assert not wants_another(choice, 0.0, 1.0)
        choice.finish(FinishedCandidate.failed(seed, 1.0, EmptyStructure("none")))
    assert not wants_another(choice, 0.0, 1.0)


def test_an_unexpected_error_ends_the_search_and_costs_no_valid_object() -> None:
    choice = BestOfN(REQUEST, 5)
    first, second = begin(choice), begin(choice)
    choice.break_off(second, RuntimeError("a bug"))
    assert not wants_another(choice, 0.0, 0.0)
    with pytest.raises(RuntimeError, match="a bug"):
        choice.best()
    choice.finish(finished(first, 0.5))
    assert str(choice.best().break_off) == "a bug"


def test_a_candidate_travels_between_processes() -> None:
    made = finished(SEEDS[1], 0.5)
    came = pickle.loads(pickle.dumps(made))
    assert isinstance(came.candidate, Candidate)
    assert (came.candidate, vars(came.asset)) == (made.candidate, vars(made.asset))
    try:
        raise EmptyStructure("nothing")
    except EmptyStructure as error:
        failed = FinishedCandidate.failed(5, 1.0, error)
    came = pickle.loads(pickle.dumps(failed))
    assert (came.candidate, repr(came.error)) == (failed.candidate, "EmptyStructure('nothing')")
