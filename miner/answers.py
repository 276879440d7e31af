"""What a validator's answers mean: pure functions from an answer and the time to what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import bittensor as bt

from miner.protocol import ProtocolTask, PullTask, SubmitResults

# Beyond cooldown_until, which is the validator's clock in whole seconds and must be strictly past.
CLOCK_MARGIN = 2.0
# Validators that have no task for us and set no cooldown are asked again after this.
IDLE_DELAY = 10.0
# A resubmission inside a validator's validation lock is ignored.
LOCK_DELAY = 30.0
# A validator that does not find us in its metagraph advises an hour, but looks again every ten minutes.
UNREGISTERED_DELAY = 600.0
REPULL_DELAY = 5.0
FIRST_FAILURE_DELAY = 10.0
LAST_FAILURE_DELAY = 300.0


@dataclass(frozen=True)
class PullAnswer:
    """Either a task, or the seconds to wait before asking again and why."""

    task: ProtocolTask | None
    delay: float
    reason: str
    failed: bool = False


class Outcome(Enum):
    """How a submission ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    NOT_VALIDATED = "not validated"
    STILL_OPEN = "still open"
    NOT_HELD = "not held"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SubmitAnswer:
    """How a submission ended, the seconds to wait before the next pull, and the line for the log."""

    outcome: Outcome
    delay: float
    reason: str


def failure_delay(failures: int) -> float:
    """Back-off after the n-th failure in a row, n >= 1: doubling from 10 s to 300 s."""
    return float(min(FIRST_FAILURE_DELAY * 2 ** min(failures - 1, 10), LAST_FAILURE_DELAY))


def _status(answer: bt.Synapse) -> tuple[int, str]:
    terminal = answer.dendrite
    code = terminal.status_code if terminal and terminal.status_code else 0
    message = terminal.status_message if terminal and terminal.status_message else "no answer"
    return int(code), " ".join(message.split())[:200]


def read_pull(answer: PullTask, now: float, failures: int) -> PullAnswer:
    """Understand the answer to a pull; `failures` counts those in a row before this one."""
    code, message = _status(answer)
    if code != 200:
        return PullAnswer(None, failure_delay(failures + 1), f"HTTP {code}: {message}", failed=True)
    if answer.task is not None:
        return PullAnswer(answer.task, 0.0, "a task")
    wait = answer.cooldown_until - now
    if wait <= 0:
        return PullAnswer(None, IDLE_DELAY, "no task now")
    if answer.cooldown_violations == 0 and wait > UNREGISTERED_DELAY * 2:
        return PullAnswer(None, UNREGISTERED_DELAY, "the validator does not know our hotkey yet")
    return PullAnswer(None, wait + CLOCK_MARGIN, f"on cooldown, {answer.cooldown_violations} violations")


def read_submission(answer: SubmitResults, skipped: bool, now: float) -> SubmitAnswer:
    """Understand the answer to a submission; `skipped`: it was an empty one.

    Feedback with a score or with a cooldown in the future closes the task; other feedback leaves it open.
    """
    code, message = _status(answer)
    if code == 403:
        return SubmitAnswer(Outcome.NOT_HELD, REPULL_DELAY, f"the validator holds no task of ours: {message}")
    if code != 200 or answer.feedback is None:
        # A time-out may have counted; the next pull tells: a cooldown if so, the same task if not.
        return SubmitAnswer(Outcome.UNKNOWN, REPULL_DELAY, f"HTTP {code}: {message}")
    feedback, wait = answer.feedback, max(answer.cooldown_until - now, 0.0)
    if wait == 0 and feedback.task_fidelity_score <= 0:
        return SubmitAnswer(Outcome.STILL_OPEN, LOCK_DELAY, "the validator left the task open")
    delay = wait + CLOCK_MARGIN
    if skipped:
        return SubmitAnswer(Outcome.SKIPPED, delay, f"skipped, cooldown {wait:.0f} s")
    if feedback.validation_failed:
        return SubmitAnswer(Outcome.NOT_VALIDATED, delay, f"the validator could not validate, cooldown {wait:.0f} s")
    if feedback.task_fidelity_score <= 0:
        return SubmitAnswer(Outcome.REJECTED, delay, f"rejected, cooldown {wait:.0f} s")
    return SubmitAnswer(
        Outcome.ACCEPTED,
        delay,
        f"accepted, Score={feedback.task_fidelity_score:.2f}, average {feedback.average_fidelity_score:.2f}, "
        f"{feedback.generations_within_the_window} in the window, duel rating {feedback.current_duel_rating:.0f}, "
        f"reward {feedback.current_miner_reward:.0f}, cooldown {wait:.0f} s",
    )
