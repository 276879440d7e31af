"""Interprets a validator's responses: pure functions from a returned synapse to a value without anything of the SDK."""

from dataclasses import dataclass

import bittensor as bt

from miner.ledger import Outcome
from miner.runtime import sanitise_text
from miner.subnet.protocol import ProtocolTask, PullTask, SubmitResults
from miner.words import plural

# A validator that does not find us in its metagraph advises an hour, but looks again every ten minutes.
UNREGISTERED_DELAY = 600.0
# Larger numbers of a validator are mistakes or malice, and too large for arithmetic.
MAX_UNIX_TIME = 2**40
MAX_THROTTLE_PERIOD = 3600
MAX_FIGURE = 1e9
# No score is higher: the formula's weights are 0.8 for what lies in 0..1, and 0.2 for alignment, which reaches 2.86.
MAX_THRESHOLD = 1.4
# A clock in a wrong time zone is off by less; what differs by more is not a clock.
MAX_CREDIBLE_SKEW = 86_400.0
# The longest cooldown that the network imposes, on hotkeys that are not registered.
MAX_COOLDOWN = 3600.0
# Ids are uuids, or what a gateway makes up; a longer one would be kept in files and on the page.
MAX_ID_LENGTH = 128


@dataclass(frozen=True)
class TaskAssigned:
    """A task, new or handed back.

    `throttle_period` are the seconds after its assignment in which submitting costs nothing. `threshold` is the score
    from which its result is accepted, None if the validator told no credible one.
    """

    task: ProtocolTask
    throttle_period: float
    threshold: float | None = None


@dataclass(frozen=True)
class OnCooldown:
    """No task before this unix time of the validator's; `violations` counts our pulls that came too early."""

    until: int
    violations: int

    @property
    def reason(self) -> str:
        """The response in words, for the log."""
        return f"on cooldown, {plural(self.violations, 'violation')}"


@dataclass(frozen=True)
class NotRegistered:
    """The validator does not find our hotkey in its metagraph; the hour that it sets is advice it does not keep."""

    reason: str = "the validator does not know our hotkey yet"


@dataclass(frozen=True)
class NoTask:
    """Neither a task nor a cooldown."""

    reason: str = "no task now"


@dataclass(frozen=True)
class PullFailed:
    """No usable response."""

    reason: str


PullResponse = TaskAssigned | OnCooldown | NotRegistered | NoTask | PullFailed


@dataclass(frozen=True)
class SubmissionResponse:
    """How a submission ended, when the validator's cooldown does, words for the log, and an accepted result's score."""

    outcome: Outcome
    cooldown_until: int
    reason: str
    score: float | None = None


def read_pull(answer: PullTask) -> PullResponse:
    """Interpret the answer to a pull."""
    code, message = _status(answer)
    if code != 200:
        return PullFailed(message)
    if answer.task is not None:
        if problem := _find_problem(answer.task):
            return PullFailed(problem)
        throttle_period = float(min(max(answer.throttle_period, 0), MAX_THROTTLE_PERIOD))
        threshold = answer.validation_threshold
        # False for NaN, too.
        is_credible_threshold = 0 < threshold <= MAX_THRESHOLD
        return TaskAssigned(answer.task, throttle_period, threshold if is_credible_threshold else None)
    if answer.cooldown_until <= 0:
        return NoTask()
    # A validator counts a pull during a cooldown before it answers: zero violations mean that there is no cooldown.
    if answer.cooldown_violations == 0:
        return NotRegistered()
    return OnCooldown(min(answer.cooldown_until, MAX_UNIX_TIME), int(_figure(answer.cooldown_violations)))


def read_submission(
    answer: SubmitResults, *, is_skip: bool, is_repeat: bool, validator_time: float
) -> SubmissionResponse:
    """Interpret the answer to a submission.

    `is_skip`: the submission was empty. `is_repeat`: an earlier submission of the same task may have arrived.
    `validator_time`: the least that the validator's clock shows.

    Feedback with a score or with a cooldown in the future closes the task. Other feedback leaves it open: the id was
    that of another task, or an earlier submission is being validated or was so less than 30 s ago.
    """
    code, message = _status(answer)
    until = min(max(answer.cooldown_until, 0), MAX_UNIX_TIME)
    if code == 403 and is_repeat:
        reason = f"the validator holds the task no longer, an earlier submission may have counted: {message}"
        return SubmissionResponse(Outcome.UNKNOWN, 0, reason)
    if code == 403:
        return SubmissionResponse(Outcome.NOT_HELD, 0, f"the validator holds no task of ours: {message}")
    if code != 200 or answer.feedback is None:
        return SubmissionResponse(Outcome.UNKNOWN, 0, message)
    feedback, wait = answer.feedback, max(until - validator_time, 0.0)
    score = _figure(feedback.task_fidelity_score)
    has_score = score > 0
    if wait == 0 and not has_score:
        return SubmissionResponse(Outcome.STILL_OPEN, 0, "the validator left the task open")
    if is_skip:
        return SubmissionResponse(Outcome.SKIPPED, until, f"skipped, cooldown {wait:.0f} s")
    if feedback.validation_failed:
        reason = f"not validated, the validator could not, cooldown {wait:.0f} s"
        return SubmissionResponse(Outcome.NOT_VALIDATED, until, reason)
    if not has_score and is_repeat:
        # An earlier submission that was accepted while this one was being validated looks the same as a rejection.
        reason = f"rejected, unless an earlier submission counted, cooldown {wait:.0f} s"
        return SubmissionResponse(Outcome.CLOSED_WITHOUT_SCORE, until, reason)
    if not has_score:
        # With the score that operators' pipelines count as rejected; the true one is never told.
        return SubmissionResponse(Outcome.REJECTED, until, f"rejected, Score=0.00, cooldown {wait:.0f} s")
    reason = (
        f"accepted, Score={score:.2f}, average {_figure(feedback.average_fidelity_score):.2f}, "
        f"{_figure(feedback.generations_within_the_window):.0f} in the window, duel rating "
        f"{_figure(feedback.current_duel_rating):.0f}, reward {_figure(feedback.current_miner_reward):.0f}, "
        f"cooldown {wait:.0f} s"
    )
    return SubmissionResponse(Outcome.ACCEPTED, until, reason, score)


def _find_problem(task: ProtocolTask) -> str:
    """Return why a task cannot be worked on, "" if it can: its id and its prompt go into files and signatures."""
    if len(task.id) > MAX_ID_LENGTH:
        return f"the task's id has {len(task.id)} characters, more than {MAX_ID_LENGTH}"
    try:
        task.id.encode()
        task.prompt.encode()
    except UnicodeEncodeError:
        return "the task is not valid Unicode"
    return ""


def _figure(number: float) -> float:
    """Return a validator's number within bounds in which it can be shown and added up; 0 if it is none."""
    return 0.0 if number != number else float(min(max(number, -MAX_FIGURE), MAX_FIGURE))


def is_credible(date: float, cooldown_until: int, wall: float) -> bool:
    """Return whether the Date of an answer is the time of its validator; `wall` is ours, all in unix seconds.

    A clock that differs by days from ours is right, and ours wrong, if the cooldown that came with it fits it.
    """
    fits = 0 < min(max(cooldown_until, 0), MAX_UNIX_TIME) - date <= MAX_COOLDOWN
    return fits or abs(date - wall) < MAX_CREDIBLE_SKEW


def _status(answer: bt.Synapse) -> tuple[int, str]:
    terminal = answer.dendrite
    code = terminal.status_code if terminal and terminal.status_code else 0
    message = terminal.status_message if terminal and terminal.status_message else "no answer"
    # What follows "[type=" in pydantic's messages are pieces of the answer: a prompt, perhaps.
    words = sanitise_text(" ".join(message.split("[type=", 1)[0].split())[:200])
    return int(code), f"HTTP {code}: {words}" if code else words
