"""Whose turn it is: deadlines, stakes, and no task that starves."""

import math

import pytest

from miner.gpu.pace import Pace, Sample
from miner.gpu.plan import PATIENCE, Claim, choose_claim


@pytest.mark.parametrize(
    ("waiting", "turn"),
    [
        # All can be kept: the earliest deadline first, whoever it is for.
        ([(60, 9), (12, 1), (30, 5)], 1),
        ([(math.inf, 9), (60, 1)], 1),
        # Not all can be kept, or none: who matters more.
        ([(11, 1), (11, 5)], 1),
        ([(-500, 1), (-10, 5)], 1),
        ([(12, 2), (-500, 1)], 0),
        # One that is late anyway does not push aside what has just time enough, unless it matters more.
        ([(-500, 1), (15, 5)], 1),
        ([(-500, 9), (15, 5)], 0),
        # One with time enough lets the late one go first, however much it matters.
        ([(25, 9), (-500, 1)], 1),
        # Equals in order of arrival.
        ([(math.inf, 0), (math.inf, 0)], 0),
        ([(math.inf, 0), (math.inf, 3)], 1),
    ],
)
def test_turns(waiting: list[tuple[float, float]], turn: int) -> None:
    """Each takes ten seconds, from now, which is 0; (deadline, priority)."""
    claims = [Claim(0.0, deadline, priority, 10.0, is_first=True) for deadline, priority in waiting]
    assert choose_claim(claims, now=0.0, next_turn=10.0) == turn


def test_no_task_waits_for_the_further_candidate_of_another() -> None:
    further = Claim(0.0, 13.0, 9.0, 10.0, is_first=False)
    assert choose_claim([further, Claim(0.0, 14.0, 1.0, 10.0, is_first=True)], 0.0, 10.0) == 1
    # Nor while there seems to be time enough for both.
    assert choose_claim([further, Claim(0.0, 40.0, 1.0, 10.0, is_first=True)], 0.0, 10.0) == 1
    # What nobody loses by does.
    assert choose_claim([Claim(0.0, math.inf, 0.0, 10.0, is_first=True), further], 0.0, 10.0) == 1
    # Where nobody loses by waiting, as what was pushed, the one that has nothing yet.
    endless = [Claim(0.0, math.inf, 9.0, 10.0, is_first=False), Claim(1.0, math.inf, 1.0, 10.0, is_first=True)]
    assert choose_claim(endless, 2.0, 10.0) == 1


def test_the_oldest_of_those_that_have_waited_too_long_goes_first() -> None:
    now = 1000.0
    rich = Claim(now - 30, now - 5, 1e6, 8.0, is_first=True)
    poor = [Claim(now - PATIENCE - age, now - age, stake, 8.0, is_first=True) for age, stake in ((1, 5.0), (2, 1.0))]
    assert choose_claim([rich, *poor], now, 8.0) == 2
    # Patience is for what has no candidate yet, and for what somebody loses by.
    has_one = Claim(now - 500, now - 470, 1.0, 8.0, is_first=False)
    nobodys = Claim(now - 500, math.inf, 0.0, 8.0, is_first=True)
    assert choose_claim([has_one, nobodys, rich], now, 8.0) == 2


def test_deadlines_that_can_be_kept_are_kept() -> None:
    """In whatever order they arrive, and whatever they matter."""
    jobs = [
        Claim(0.0, 10.0 * place + 1, stake, 10.0, True) for place, stake in ((3, 9.0), (1, 1.0), (4, 2.0), (2, 5.0))
    ]
    now, missed = 0.0, 0
    while jobs:
        job = jobs.pop(choose_claim(jobs, now, 10.0))
        now += 10.0
        missed += now > job.deadline
    assert missed == 0


def test_expected_seconds_are_a_tasks_own_at_the_pace_of_the_worker() -> None:
    pace = Pace()
    assert pace.expect(0, "a", "whole") == 0.0
    assert pace.expect(0, "a", "whole", [Sample(0, "whole", 2.0), Sample(0, "whole", 4.0)]) == 3.0
    pace.add("a", Sample(0, "whole", 2.0))
    # Nothing is known of the other worker but what the first one took.
    assert pace.expect(1, "a", "whole") == 2.0
    pace.add("a", Sample(1, "whole", 6.0))
    assert pace.expect(1, "a", "whole") == 6.0
    # A large object, on the worker that is three times slower.
    assert pace.expect(1, "a", "whole", [Sample(0, "whole", 3.0)]) == pytest.approx(9.0)
    assert pace.expect(0, "a", "whole", [Sample(0, "whole", 3.0), Sample(1, "whole", 9.0)]) == pytest.approx(3.0)
    assert pace.expect(0, "another", "whole") == 0.0
    for _ in range(50):
        pace.add("a", Sample(0, "whole", 4.0))
    assert pace.expect(0, "a", "whole") == pytest.approx(4.0)


def test_a_stage_takes_as_long_as_a_whole_candidate_until_more_is_known() -> None:
    pace = Pace()
    pace.add("a", Sample(0, "whole", 3.0))
    assert pace.expect(0, "a", "preview") == 3.0
    assert pace.expect(0, "a", "preview", [Sample(0, "whole", 5.0)]) == 5.0
    pace.add("a", Sample(0, "preview", 2.0))
    assert pace.expect(0, "a", "preview", [Sample(0, "whole", 5.0)]) == 2.0
    assert pace.expect(0, "a", "finish") == pace.expect(0, "a", "whole") == 3.0
