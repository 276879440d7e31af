"""What we do with one validator: a state machine without IO, (state, event, now) -> (state, action).

    IDLE ──TimerFired──> PULLING ──a task──> HOLDING ──GenerationFinished──> SUBMITTING ──an answer──> WAITING ──TimerFired──> PULLING
                     └──no task──> WAITING

Moments are seconds of our own steady clock; a cooldown, which is the validator's unix time, is turned into one with
its clock as known at the answer. `pull_after` never moves back but for an answer, so neither a new address, nor a
loop that died, nor a spell outside the policy shortens a cooldown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

from miner.ledger.outcomes import Outcome
from miner.pull.clock_offset import ClockOffset
from miner.pull.responses import (
    UNREGISTERED_DELAY,
    NoTask,
    NotRegistered,
    OnCooldown,
    PullFailed,
    PullResponse,
    SubmissionResponse,
    TaskAssigned,
)
from miner.subnet.protocol import ProtocolTask

# Beyond a cooldown's end: what clocks drift during one, and the jitter of timers. Twice that where the validator does
# not tell its time and ours has to do.
CLOCK_MARGIN = 1.0
UNKNOWN_CLOCK_MARGIN = 2.0
# Validators that have no task for us and set no cooldown are asked again after this.
IDLE_DELAY = 10.0
# A submission less than 30 s after validation of an earlier one began is ignored.
LOCK_DELAY = 31.0
# Pulling soon after a submission whose fate is unknown tells its fate: a task that is still held costs seconds.
FIRST_FAILURE_DELAY = 2.0
# A validator that comes back is noticed within this.
LAST_FAILURE_DELAY = 60.0
LAST_LOCK_DELAY = 300.0
# Until the policy is asked again.
DENIED_DELAY = 30.0
# No answer makes us wait longer, so that one absurd number does not lose a validator for good.
LONGEST_WAIT = 86_400.0


class Stage(Enum):
    """What goes on with the validator."""

    IDLE = "idle"
    PULLING = "pulling"
    HOLDING = "holding a task"
    SUBMITTING = "submitting"
    WAITING = "waiting"


@dataclass(frozen=True)
class HeldTask:
    """The last task we were given; kept after it was closed, since a validator set back to an old state gives it again.

    `assigned_at` is the earliest moment at which the validator's 30 s can have begun, `results` None until it is
    finished, `submitted_at` the last moment at which a submission left that may have arrived.
    """

    task: ProtocolTask
    assigned_at: float
    throttle_period: float
    results: str | None = None
    submitted_at: float | None = None


@dataclass(frozen=True)
class ValidatorState:
    """All we remember of one validator.

    No pull before `pull_after`; `cooldown_end` is the part of it that a validator imposed. `asked_at`: when the first
    pull left that may have got us a task but brought no answer. `failed_pulls` and `failed_submissions`: those in a
    row that came to nothing. `earlier`: id and moment of assignment of a task held before our own restart.
    """

    stage: Stage = Stage.IDLE
    pull_after: float = -math.inf
    cooldown_end: float = -math.inf
    held: HeldTask | None = None
    asked_at: float | None = None
    failed_pulls: int = 0
    failed_submissions: int = 0
    clock: ClockOffset = field(default_factory=ClockOffset)
    earlier: tuple[str, float] | None = None

    @property
    def busy(self) -> bool:
        """Whether a task is in our hands."""
        return self.stage in (Stage.HOLDING, Stage.SUBMITTING)


@dataclass(frozen=True)
class TimerFired:
    """The time that was waited for has come."""


@dataclass(frozen=True)
class PolicyDenied:
    """The policy refuses this validator, before a pull or before a result is sent."""


@dataclass(frozen=True)
class SessionInterrupted:
    """The loop that acted for this state has died; its exchange, if any, may have arrived."""


@dataclass(frozen=True)
class PullCompleted:
    """A pull that left at `sent` was answered, or was not.

    `delivered` is False if it certainly had no effect; `date` is the validator's unix time as its answer told it.
    """

    answer: PullResponse
    sent: float
    delivered: bool = True
    date: float | None = None


@dataclass(frozen=True)
class GenerationFinished:
    """The held task's result in base64; empty to skip it."""

    results: str


@dataclass(frozen=True)
class SubmissionCompleted:
    """A submission that left at `sent` was answered, or was not; the rest as for PullCompleted."""

    answer: SubmissionResponse
    sent: float
    delivered: bool = True
    date: float | None = None


Event = TimerFired | PolicyDenied | SessionInterrupted | PullCompleted | GenerationFinished | SubmissionCompleted


@dataclass(frozen=True)
class WaitUntil:
    """Come back with TimerFired at this moment."""

    until: float


@dataclass(frozen=True)
class SendPull:
    """Ask the policy; send PullTask."""


@dataclass(frozen=True)
class StartGeneration:
    """Have the held task generated; come back with GenerationFinished."""


@dataclass(frozen=True)
class SendSubmission:
    """Ask the policy; send the held task's results."""


Action = WaitUntil | SendPull | StartGeneration | SendSubmission


def transition(state: ValidatorState, event: Event, now: float, wall: float) -> tuple[ValidatorState, Action]:
    """The next state and what to do; `now` of our steady clock, `wall` our unix time, for validators that tell none."""
    match event:
        case TimerFired():
            return _due(state, now)
        case PolicyDenied():
            return _wait(state, now + DENIED_DELAY)
        case SessionInterrupted():
            return _interrupted(state, now)
        case PullCompleted():
            return _pulled(state, event, now, wall)
        case GenerationFinished():
            assert state.held is not None
            return _deliver(replace(state, held=replace(state.held, results=event.results)), now)
        case SubmissionCompleted():
            return _submitted(state, event, now, wall)


def failure_delay(failures: int) -> float:
    """Back-off after the n-th failure in a row, n >= 1: doubling from 2 s to 60 s."""
    return float(min(FIRST_FAILURE_DELAY * 2 ** min(failures - 1, 10), LAST_FAILURE_DELAY))


def _wait(state: ValidatorState, until: float) -> tuple[ValidatorState, Action]:
    moment = max(until, state.pull_after)
    return replace(state, stage=Stage.WAITING, pull_after=moment), WaitUntil(moment)


def _due(state: ValidatorState, now: float) -> tuple[ValidatorState, Action]:
    if state.stage is Stage.HOLDING:
        return _deliver(state, now)
    if now < state.pull_after:
        return replace(state, stage=Stage.WAITING), WaitUntil(state.pull_after)
    return replace(state, stage=Stage.PULLING), SendPull()


def _deliver(state: ValidatorState, now: float) -> tuple[ValidatorState, Action]:
    """Send the result now, or once an earlier submission of it can no longer lock the validator."""
    assert state.held is not None
    sent = state.held.submitted_at
    if sent is not None and now < sent + LOCK_DELAY:
        return replace(state, stage=Stage.HOLDING), WaitUntil(sent + LOCK_DELAY)
    return replace(state, stage=Stage.SUBMITTING), SendSubmission()


def _interrupted(state: ValidatorState, now: float) -> tuple[ValidatorState, Action]:
    if state.stage is Stage.PULLING:
        state = replace(state, asked_at=now if state.asked_at is None else state.asked_at)
    if state.stage is Stage.SUBMITTING and state.held is not None:
        state = replace(state, held=replace(state.held, submitted_at=now))
    return _wait(state, now)


def _cool_down(state: ValidatorState, until: int, now: float, wall: float) -> tuple[ValidatorState, Action]:
    """WaitUntil until the validator's clock has certainly passed a cooldown's end."""
    margin = UNKNOWN_CLOCK_MARGIN if state.clock.offset is None else CLOCK_MARGIN
    end = now + min(max(until - state.clock.at(now, wall), 0.0) + margin, LONGEST_WAIT)
    return _wait(replace(state, cooldown_end=end), end)


def _pulled(state: ValidatorState, event: PullCompleted, now: float, wall: float) -> tuple[ValidatorState, Action]:
    state = replace(state, clock=state.clock.seen(event.date, now))
    match event.answer:
        case TaskAssigned():
            return _given(state, event.answer, event.sent, now)
        case OnCooldown(until=until):
            # No task is held: a submission whose fate was unknown has counted.
            late = replace(state, asked_at=None, failed_submissions=0)
            if until > state.clock.at(now, wall):
                return _cool_down(replace(late, failed_pulls=0), until, now, wall)
            # We were too early by a clock that is wrong, ours or the one it tells.
            clock = state.clock.still_before(until, now)
            failed = replace(late, failed_pulls=state.failed_pulls + 1, clock=clock)
            return _wait(failed, now + max(failure_delay(failed.failed_pulls), IDLE_DELAY))
        case NotRegistered():
            return _wait(replace(state, asked_at=None, failed_pulls=0), now + UNREGISTERED_DELAY)
        case NoTask():
            return _wait(replace(state, asked_at=None, failed_pulls=0), now + IDLE_DELAY)
        case PullFailed():
            if event.delivered and state.asked_at is None:
                state = replace(state, asked_at=event.sent)
            state = replace(state, failed_pulls=state.failed_pulls + 1)
            return _wait(state, now + failure_delay(state.failed_pulls))


def _given(state: ValidatorState, answer: TaskAssigned, sent: float, now: float) -> tuple[ValidatorState, Action]:
    asked = sent if state.asked_at is None else state.asked_at
    held = state.held
    if held is not None and held.task.id == answer.task.id:
        if held.results is None or held.task.prompt != answer.task.prompt:
            held = replace(held, task=answer.task, results=None)
    else:
        earlier_id, earlier_at = state.earlier or ("", 0.0)
        assigned_at = earlier_at if earlier_id == answer.task.id else asked
        held = HeldTask(answer.task, assigned_at, answer.throttle_period)
    state = replace(state, held=held, asked_at=None, failed_pulls=0, earlier=None)
    if held.results is None:
        return replace(state, stage=Stage.HOLDING), StartGeneration()
    return _deliver(state, now)


def _submitted(
    state: ValidatorState, event: SubmissionCompleted, now: float, wall: float
) -> tuple[ValidatorState, Action]:
    assert state.held is not None
    held = replace(state.held, submitted_at=event.sent) if event.delivered else state.held
    state = replace(state, held=held, clock=state.clock.seen(event.date, now))
    outcome = event.answer.outcome
    if outcome.closes:
        return _cool_down(replace(state, failed_submissions=0), event.answer.cooldown_until, now, wall)
    failures = state.failed_submissions + 1
    delay = failure_delay(failures)
    if outcome is Outcome.STILL_OPEN:
        delay = min(LOCK_DELAY * 2 ** min(failures - 1, 10), LAST_LOCK_DELAY)
    return _wait(replace(state, failed_submissions=failures), now + delay)
