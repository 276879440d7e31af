from __future__ import annotations

import bittensor as bt
import pytest

from miner.answers import Outcome, failure_delay, read_pull, read_submission
from miner.protocol import Feedback, PullTask, SubmitResults, TextTask

NOW = 1_000_000.0
AHEAD = int(NOW) + 300


def pulled(code: int = 200, **fields: object) -> PullTask:
    return PullTask(dendrite=bt.TerminalInfo(status_code=code, status_message="said so"), **fields)


def submitted(code: int = 200, **fields: object) -> SubmitResults:
    dendrite = bt.TerminalInfo(status_code=code, status_message="said so")
    return SubmitResults(results="", submit_time=1, signature="", dendrite=dendrite, **fields)


def test_pull_brings_a_task() -> None:
    task = TextTask(id="t", prompt="p")
    assert read_pull(pulled(task=task), NOW, 0).task == task


def test_pull_on_cooldown_waits_past_its_end() -> None:
    answer = read_pull(pulled(cooldown_until=AHEAD, cooldown_violations=3), NOW, 0)
    assert answer.task is None
    assert not answer.failed
    assert 300 < answer.delay <= 303


def test_pull_unregistered_asks_again_in_ten_minutes() -> None:
    assert read_pull(pulled(cooldown_until=int(NOW) + 3600), NOW, 0).delay == 600


def test_pull_without_task_or_cooldown_asks_again_soon() -> None:
    assert 0 < read_pull(pulled(), NOW, 0).delay <= 30


@pytest.mark.parametrize("code", [0, 401, 403, 408, 422, 500, 503])
def test_failed_pulls_back_off(code: int) -> None:
    delays = [read_pull(pulled(code), NOW, failures) for failures in range(8)]
    assert all(answer.failed and str(code) in answer.reason for answer in delays)
    assert [answer.delay for answer in delays] == [10, 20, 40, 80, 160, 300, 300, 300]
    assert failure_delay(10_000) == 300


@pytest.mark.parametrize(
    ("answer", "skipped", "outcome", "at_least"),
    [
        (submitted(feedback=Feedback(task_fidelity_score=0.7), cooldown_until=AHEAD), False, Outcome.ACCEPTED, 300),
        (submitted(feedback=Feedback(task_fidelity_score=0.7), cooldown_until=0), False, Outcome.ACCEPTED, 1),
        (submitted(feedback=Feedback(), cooldown_until=AHEAD + 600), False, Outcome.REJECTED, 900),
        (submitted(feedback=Feedback(), cooldown_until=AHEAD), True, Outcome.SKIPPED, 300),
        (submitted(feedback=Feedback(validation_failed=True), cooldown_until=AHEAD), False, Outcome.NOT_VALIDATED, 300),
        (submitted(feedback=Feedback(), cooldown_until=0), False, Outcome.STILL_OPEN, 30),
        (submitted(feedback=Feedback(), cooldown_until=int(NOW) - 5), True, Outcome.STILL_OPEN, 30),
        (submitted(403), False, Outcome.NOT_HELD, 1),
        (submitted(408), False, Outcome.UNKNOWN, 1),
        (submitted(500), False, Outcome.UNKNOWN, 1),
        (submitted(), False, Outcome.UNKNOWN, 1),
    ],
)
def test_submissions(answer: SubmitResults, skipped: bool, outcome: Outcome, at_least: float) -> None:
    read = read_submission(answer, skipped, NOW)
    assert read.outcome is outcome
    assert at_least <= read.delay <= at_least + 10


def test_an_accepted_score_stands_in_the_line() -> None:
    feedback = Feedback(task_fidelity_score=0.7123, average_fidelity_score=0.65, generations_within_the_window=9)
    reason = read_submission(submitted(feedback=feedback, cooldown_until=AHEAD), False, NOW).reason
    assert "Score=0.71," in reason
