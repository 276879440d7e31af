"""The time of a validator, and from which chance on a result is worth it."""

import numpy as np
import pytest

from miner.analytics.intervals import Floats
from miner.analytics.slots import (
    COOLDOWN,
    PENALTY,
    PRIOR_SHARE,
    PRIOR_SLOTS,
    WINDOW_SECONDS,
    WINDOW_TASKS,
    Slots,
    break_even_chance,
    count_slots,
)
from miner.ledger.outcomes import Outcome
from tests.support.task_rows import NOW, task_row

# Chances to pass, all equally common.
CHANCES = (np.arange(10_000) + 0.5) / 10_000


def accepted_per_second(chances: Floats, limit: float) -> float:
    """Return the long-run rate if all results above a chance are sent: accepted over seconds of a task, both means."""
    sent = chances > limit
    seconds = COOLDOWN + PENALTY * float(((1 - chances) * sent).mean())
    return float((chances * sent).mean()) / seconds


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_the_rule_maximises_the_accepted_results_in_time(power: float) -> None:
    chances = CHANCES**power
    limit = 0.0
    for _ in range(20):
        # What the ledger would tell of the share of the slots under the limit so far.
        limit = break_even_chance(accepted_per_second(chances, limit) * COOLDOWN)
    best = max(accepted_per_second(chances, candidate) for candidate in np.linspace(0, 1, 2001).tolist())
    assert accepted_per_second(chances, limit) == pytest.approx(best, rel=1e-6)
    # Odds of twice the share.
    share = accepted_per_second(chances, limit) * COOLDOWN
    assert limit / (1 - limit) == pytest.approx(2 * share)
    # With the share of the tasks in its place, more is withheld than pays.
    tasks_limit = 0.0
    for _ in range(50):
        tasks_limit = break_even_chance(float((chances * (chances > tasks_limit)).mean()))
    assert tasks_limit > limit
    assert accepted_per_second(chances, tasks_limit) < best * (1 - 1e-4)


def test_a_rejected_result_takes_three_slots() -> None:
    outcomes = [Outcome.ACCEPTED] * 4 + [Outcome.SKIPPED] * 3 + [Outcome.REJECTED] * 2 + [Outcome.NOT_VALIDATED]
    unknown = [Outcome.CLOSED_WITHOUT_SCORE, Outcome.STILL_OPEN, Outcome.NOT_HELD, Outcome.UNKNOWN, None]
    tasks = [task_row(number, outcome) for number, outcome in enumerate([*outcomes, *unknown])]
    tasks.append(task_row(99, Outcome.ACCEPTED, transport="push"))
    now = tasks[-1].assigned_at + 60
    assert count_slots(tasks, now) == Slots(4, 4 + 3 + 1 + 3 * 2)
    assert count_slots(tasks, now).share == (4 + PRIOR_SHARE * PRIOR_SLOTS) / (14 + PRIOR_SLOTS)
    assert Slots().share == PRIOR_SHARE == 0.25
    assert break_even_chance(0.25) == pytest.approx(1 / 3)


def test_only_the_latest_tasks_count() -> None:
    old = [task_row(number, Outcome.REJECTED) for number in range(100)]
    new = [task_row(number, Outcome.ACCEPTED) for number in range(100, 100 + WINDOW_TASKS)]
    assert count_slots(old + new, NOW - 359_000) == Slots(WINDOW_TASKS, WINDOW_TASKS)
    assert count_slots(old, old[50].assigned_at + WINDOW_SECONDS) == Slots(0, 3.0 * 50)
    assert count_slots([], NOW) == Slots(0, 0)
