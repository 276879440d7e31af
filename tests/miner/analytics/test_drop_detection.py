import numpy as np
import pytest

from miner.analytics.drop_detection import MIN_BEFORE, find_drops, find_fall
from miner.analytics.rating import AcceptanceRate
from miner.ledger.reader import TaskRow
from tests.support.task_rows import NOW
from tests.support.task_rows import task_row as task

HOUR = 3600.0


def draw(rng: np.random.Generator, rate: float, count: int) -> list[bool]:
    return list((rng.random(count) < rate).tolist())


def test_a_rate_that_stays_raises_few_alarms() -> None:
    """Of 300 halves of a day, 150,000 results in all, at most 1 in 20,000: the mean is far below that."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(300):
        before = draw(rng, 0.45, 800)
        alarms += find_fall(AcceptanceRate(sum(before), len(before)), draw(rng, 0.45, 500)) is not None
    assert alarms <= 7


@pytest.mark.parametrize(("lower", "within"), [(0.2, 150), (0.3, 400), (0.0, 40)])
def test_a_rate_that_falls_is_noticed(lower: float, within: int) -> None:
    """In nine of ten cases at least, and near to where it fell."""
    rng = np.random.default_rng(6)
    starts = []
    for _ in range(40):
        recent = draw(rng, 0.5, 100) + draw(rng, lower, within)
        start = find_fall(AcceptanceRate(400, 800), recent)
        if start is not None:
            starts.append(start)
    assert len(starts) >= 36
    assert abs(float(np.median(starts)) - 100) < 30


def test_too_few_results_before_and_none_since() -> None:
    assert find_fall(AcceptanceRate(MIN_BEFORE - 1, MIN_BEFORE - 1), [False] * 500) is None
    assert find_fall(AcceptanceRate(0, 500), [False] * 500) is None
    assert find_fall(AcceptanceRate(400, 500), []) is None


def results(count: int, last: float, accepted_of_10: int, **changes: object) -> list[TaskRow]:
    """So many results in the hours until `last` hours ago."""
    return [
        task(
            n,
            "accepted" if n % 10 < accepted_of_10 else "rejected",
            assigned_at=NOW - HOUR * last - 30.0 * n,
            **changes,
        )
        for n in range(count)
    ]


def test_phases_are_looked_at_apart() -> None:
    tasks = [
        *results(600, 13, 6, phase="a"),
        *results(300, 2, 1, phase="a"),
        *results(600, 13, 6, phase="b"),
        *results(300, 2, 6, phase="b"),
        # The same name with other settings has no results before.
        *results(300, 2, 0, phase="a", config_hash="other"),
        *[task(n, "skipped", assigned_at=NOW - 60) for n in range(300)],
    ]
    (drop,) = find_drops(tasks, NOW)
    assert (drop.phase, drop.config_hash) == ("a", "1a2b3c4d5e6f")
    assert (drop.before.accepted, drop.before.judged) == (360, 600)
    assert drop.after.judged == pytest.approx(300, abs=15)
    assert drop.since == pytest.approx(NOW - HOUR * 4.5, abs=600)
