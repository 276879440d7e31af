import math

import pytest

from miner.analytics.experiments import VERDICT_LIMIT, observe, summarise_experiment
from miner.ledger.events import Stratum
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import ExperimentRow
from tests.support.task_rows import NOW
from tests.support.task_rows import task_row as task


@pytest.mark.parametrize(
    ("outcome", "accepted"),
    [
        (Outcome.ACCEPTED, True),
        (Outcome.REJECTED, False),
        (Outcome.SKIPPED, False),
        (Outcome.NOT_VALIDATED, None),
        (Outcome.CLOSED_WITHOUT_SCORE, None),
    ],
)
def test_what_a_task_says_of_its_arm(outcome: str, accepted: bool | None) -> None:
    row = task(5, outcome, arm="phase3", turn=2)
    found = observe(row, NOW)
    assert found == (Stratum("5Alpha9999", "image"), 2, "phase3", accepted, row.answered_at)


@pytest.mark.parametrize("outcome", [None, Outcome.UNKNOWN, Outcome.STILL_OPEN, Outcome.NOT_HELD])
def test_a_task_without_a_verdict_is_waited_for_an_hour(outcome: str | None) -> None:
    row = task(5, outcome, arm="phase3", turn=2)
    assert observe(row, row.assigned_at + 60).ended == math.inf
    late = observe(row, row.assigned_at + VERDICT_LIMIT + 1)
    assert (late.accepted, late.ended) == (None, row.assigned_at + VERDICT_LIMIT)


def test_a_verdict_that_comes_later_does_not_change_what_was_decided() -> None:
    row = task(5, "accepted", arm="phase3", turn=2)
    late = row._replace(answered_at=row.assigned_at + VERDICT_LIMIT + 5)
    assert observe(late, NOW) == observe(row._replace(outcome=None, answered_at=None), NOW)


def test_a_task_of_no_experiment() -> None:
    with pytest.raises(ValueError, match="belongs to no experiment"):
        observe(task(5, "accepted"), NOW)


def test_an_experiment_is_judged_by_its_arms() -> None:
    row = ExperimentRow("e", 0.0, 7, '{"phase3": 50, "baseline": 50}', None, None)
    arms = ("baseline", "phase3")
    tasks = [
        task(n, "accepted" if (n % 10 < 8) == (n % 2 == 1) else "rejected", arm=arms[n % 2], turn=n) for n in range(400)
    ]
    tasks.append(task(400, "skipped", arm="gone", turn=400))
    found = summarise_experiment(row, tasks, NOW)
    assert found.arms == (("phase3", 160, 200), ("baseline", 40, 200))
    assert (found.result.winner, found.result.losers, found.result.blocks) == ("phase3", ("baseline",), 200)
