import math

import bittensor as bt
import pytest

from miner.ledger.outcomes import Outcome
from miner.pull.responses import (
    MAX_UNIX_TIME,
    NoTask,
    NotRegistered,
    OnCooldown,
    PullFailed,
    TaskAssigned,
    is_credible,
    read_pull,
    read_submission,
)
from miner.subnet.protocol import Feedback, PullTask, SubmitResults, TextTask

NOW = 1_000_000.0
AHEAD = int(NOW) + 300


def pulled(code: int = 200, message: str = "said so", **fields: object) -> PullTask:
    return PullTask(dendrite=bt.TerminalInfo(status_code=code, status_message=message), **fields)


def submitted(code: int = 200, **fields: object) -> SubmitResults:
    dendrite = bt.TerminalInfo(status_code=code, status_message="said so")
    return SubmitResults(results="", submit_time=1, signature="", dendrite=dendrite, **fields)


TASK = TextTask(id="t", prompt="p")


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (pulled(task=TASK, throttle_period=30), TaskAssigned(TASK, 30, 0.6)),
        (pulled(task=TASK, throttle_period=-5), TaskAssigned(TASK, 0, 0.6)),
        (pulled(task=TASK, throttle_period=10**400), TaskAssigned(TASK, 3600, 0.6)),
        (pulled(task=TASK, validation_threshold=0.75), TaskAssigned(TASK, 0, 0.75)),
        *((pulled(task=TASK, validation_threshold=t), TaskAssigned(TASK, 0)) for t in (0, -1, math.nan, math.inf, 7)),
        (pulled(cooldown_until=AHEAD, cooldown_violations=3), OnCooldown(AHEAD, 3)),
        (pulled(cooldown_until=10**400, cooldown_violations=1), OnCooldown(MAX_UNIX_TIME, 1)),
        (pulled(cooldown_until=int(NOW) + 3600), NotRegistered()),
        (pulled(), NoTask()),
        (pulled(cooldown_until=-1), NoTask()),
    ],
)
def test_pulls(answer: PullTask, meaning: object) -> None:
    assert read_pull(answer) == meaning


@pytest.mark.parametrize("code", [0, 401, 403, 404, 408, 422, 500, 503])
def test_failed_pulls(code: int) -> None:
    # Without a status there was no answer of HTTP's.
    assert read_pull(pulled(code)) == PullFailed(f"HTTP {code}: said so" if code else "said so")


def test_what_an_answer_says_cannot_forge_lines_or_leak_prompts() -> None:
    message = "1 validation error\n\x1b[31mtask [type=model_type, input_value={'prompt': 'iVBORw0KGgo'}]"
    assert read_pull(pulled(422, message)) == PullFailed("HTTP 422: 1 validation error ?[31mtask")


@pytest.mark.parametrize(
    ("answer", "skipped", "outcome", "until"),
    [
        (submitted(feedback=Feedback(task_fidelity_score=0.7), cooldown_until=AHEAD), False, Outcome.ACCEPTED, AHEAD),
        (submitted(feedback=Feedback(task_fidelity_score=0.7), cooldown_until=0), False, Outcome.ACCEPTED, 0),
        (submitted(feedback=Feedback(), cooldown_until=AHEAD + 600), False, Outcome.REJECTED, AHEAD + 600),
        (
            submitted(feedback=Feedback(task_fidelity_score=float("nan")), cooldown_until=AHEAD),
            False,
            Outcome.REJECTED,
            AHEAD,
        ),
        (submitted(feedback=Feedback(), cooldown_until=10**400), False, Outcome.REJECTED, MAX_UNIX_TIME),
        (submitted(feedback=Feedback(), cooldown_until=AHEAD), True, Outcome.SKIPPED, AHEAD),
        (
            submitted(feedback=Feedback(validation_failed=True), cooldown_until=AHEAD),
            False,
            Outcome.NOT_VALIDATED,
            AHEAD,
        ),
        (submitted(feedback=Feedback(), cooldown_until=0), False, Outcome.STILL_OPEN, 0),
        (submitted(feedback=Feedback(), cooldown_until=-(10**400)), False, Outcome.STILL_OPEN, 0),
        (submitted(feedback=Feedback(), cooldown_until=int(NOW) - 5), True, Outcome.STILL_OPEN, 0),
        (submitted(403), False, Outcome.NOT_HELD, 0),
        (submitted(408), False, Outcome.UNKNOWN, 0),
        (submitted(500), False, Outcome.UNKNOWN, 0),
        (submitted(), False, Outcome.UNKNOWN, 0),
    ],
)
def test_submissions(answer: SubmitResults, skipped: bool, outcome: Outcome, until: int) -> None:
    read = read_submission(answer, is_skip=skipped, is_repeat=False, validator_time=NOW)
    assert (read.outcome, read.cooldown_until) == (outcome, until)


@pytest.mark.parametrize(
    ("feedback", "outcome"),
    [
        (Feedback(), Outcome.CLOSED_WITHOUT_SCORE),
        (Feedback(task_fidelity_score=0.7), Outcome.ACCEPTED),
        (Feedback(validation_failed=True), Outcome.NOT_VALIDATED),
    ],
)
def test_after_a_time_out_no_score_does_not_mean_rejected(feedback: Feedback, outcome: Outcome) -> None:
    """The first submission may have been accepted while the second was being validated."""
    answer = submitted(feedback=feedback, cooldown_until=AHEAD)
    assert read_submission(answer, is_skip=False, is_repeat=True, validator_time=NOW).outcome is outcome
    assert outcome.closes


def test_a_task_that_is_held_no_longer_when_it_is_sent_again_may_have_counted() -> None:
    """The validator may have restarted, or have judged the first submission; what it says next tells which."""
    read = read_submission(submitted(403), is_skip=False, is_repeat=True, validator_time=NOW)
    assert read.outcome is Outcome.UNKNOWN
    assert "an earlier submission may have counted" in read.reason


def test_an_accepted_score_stands_in_the_line() -> None:
    feedback = Feedback(task_fidelity_score=0.7123, average_fidelity_score=0.65, generations_within_the_window=9)
    reason = read_submission(
        submitted(feedback=feedback, cooldown_until=AHEAD), is_skip=False, is_repeat=False, validator_time=NOW
    ).reason
    assert "Score=0.71," in reason


@pytest.mark.parametrize(
    ("skew", "cooldown", "credible"),
    [
        (0, 0, True),
        (-80_000, 0, True),
        (90_000, 0, False),
        # Ours is wrong by days: the cooldown fits their clock.
        (90_000, 300, True),
        (-10 * 86_400, 3600, True),
        (90_000, 3601, False),
        (90_000, -1, False),
    ],
)
def test_a_date_is_credible_if_it_is_near_or_the_cooldown_fits_it(skew: float, cooldown: int, credible: bool) -> None:
    assert is_credible(NOW + skew, int(NOW + skew) + cooldown if cooldown else 0, NOW) is credible


def test_no_number_is_too_large_for_arithmetic() -> None:
    for until in (10**400, -(10**400)):
        assert is_credible(NOW, until, NOW)
