"""The states of one validator, without I/O: (state, event, now) -> (state, action).

    IDLE ──TimerFired──> PULLING ──a task──> HOLDING ──GenerationFinished──> SUBMITTING ──a response──> WAITING ──┐
                            ^  └──no task──> WAITING ──┐                                                          │
                            └────────TimerFired────────┴──────────────────────────────────────────────────────────┘

Moments are seconds of our own steady clock; a cooldown, which is the validator's unix time, is converted with its clock
as known at the response. `pull_after` is moved back by a response only, so neither a new address, nor a session that
crashed, nor a time outside the policy shortens a cooldown.
"""

from dataclasses import dataclass, replace

from miner.ledger import Outcome
from miner.pull import responses
from miner.pull.validator_state import (
    LOCK_DELAY,
    MAX_WAIT,
    UNKNOWN_CLOCK_MARGIN,
    HeldTask,
    Stage,
    ValidatorState,
)
from miner.runtime import backoff

# Added to a cooldown: the drift of clocks during one, and the jitter of timers; see also UNKNOWN_CLOCK_MARGIN.
CLOCK_MARGIN = 1.0
# Validators that have no task for us and set no cooldown are pulled from again after this.
IDLE_DELAY = 10.0
# The longest wait after submissions that were ignored, see LOCK_DELAY.
MAX_LOCK_DELAY = 300.0
# Pulling soon after a submission whose fate is unknown tells its fate, since a task that is still held costs seconds;
# and a validator that comes back is noticed within the last of these delays.
FIRST_FAILURE_DELAY, LAST_FAILURE_DELAY = 2.0, 60.0
# The policy is asked again after this.
DENIED_DELAY = 30.0


@dataclass(frozen=True)
class TimerFired:
    """The time that was waited for has come."""


@dataclass(frozen=True)
class PolicyDenied:
    """The policy refuses this validator, before a pull or before a result is sent."""


@dataclass(frozen=True)
class SessionInterrupted:
    """The session that acted for this state has crashed; its exchange, if any, may have arrived."""


@dataclass(frozen=True)
class PullCompleted:
    """A pull that left at `sent` was answered, or was not.

    `delivered` is False if it certainly had no effect; `date` is the validator's unix time as its answer told it.
    """

    response: responses.PullResponse
    sent: float
    delivered: bool = True
    date: float | None = None


@dataclass(frozen=True)
class GenerationFinished:
    """The held task's result is ready; an empty one skips the task."""

    result: bytes


@dataclass(frozen=True)
class SubmissionCompleted:
    """A submission that left at `sent` was answered, or was not; the other fields are those of PullCompleted."""

    response: responses.SubmissionResponse
    sent: float
    delivered: bool = True
    date: float | None = None


Event = TimerFired | PolicyDenied | SessionInterrupted | PullCompleted | GenerationFinished | SubmissionCompleted


@dataclass(frozen=True)
class WaitUntil:
    """Come back with TimerFired at this moment."""

    moment: float


@dataclass(frozen=True)
class SendPull:
    """Ask the policy, and send a PullTask."""


@dataclass(frozen=True)
class StartGeneration:
    """Generate the held task, and come back with GenerationFinished."""

    held: HeldTask


@dataclass(frozen=True)
class SendSubmission:
    """Ask the policy, and submit the held task's result."""

    held: HeldTask


Action = WaitUntil | SendPull | StartGeneration | SendSubmission
Transition = tuple[ValidatorState, Action]


def transition(state: ValidatorState, event: Event, now: float, wall: float) -> Transition:
    """Return the next state and what to do at `now`, steady; `wall` is our unix time, for validators that tell none."""
    match event:
        case TimerFired():
            return _on_timer(state, now)
        case PolicyDenied():
            return _wait(state, now + DENIED_DELAY)
        case SessionInterrupted():
            return _on_interruption(state, now)
        case PullCompleted():
            return _on_pull(state, event, now, wall)
        case GenerationFinished():
            assert state.held is not None
            return _deliver(state, replace(state.held, result=event.result), now)
        case SubmissionCompleted():
            return _on_submission(state, event, now, wall)


def failure_delay(failures: int) -> float:
    """Return the back-off after the n-th failure in a row."""
    return backoff(failures, FIRST_FAILURE_DELAY, LAST_FAILURE_DELAY)


def _wait(state: ValidatorState, until: float) -> Transition:
    moment = max(until, state.pull_after)
    return replace(state, stage=Stage.WAITING, pull_after=moment, submitting_since=None), WaitUntil(moment)


def _on_timer(state: ValidatorState, now: float) -> Transition:
    if state.stage is Stage.HOLDING and state.held is not None:
        return _deliver(state, state.held, now)
    if now < state.pull_after:
        return replace(state, stage=Stage.WAITING), WaitUntil(state.pull_after)
    return replace(state, stage=Stage.PULLING), SendPull()


def _deliver(state: ValidatorState, held: HeldTask, now: float) -> Transition:
    """Send the result now, or once an earlier submission of it can no longer lock the validator."""
    if held.submitted_at is not None and now < held.submitted_at + LOCK_DELAY:
        return replace(state, stage=Stage.HOLDING, held=held), WaitUntil(held.submitted_at + LOCK_DELAY)
    return replace(state, stage=Stage.SUBMITTING, held=held, submitting_since=now), SendSubmission(held)


def _on_interruption(state: ValidatorState, now: float) -> Transition:
    if state.stage is Stage.PULLING:
        state = replace(state, asked_at=now if state.asked_at is None else state.asked_at)
    if state.stage is Stage.SUBMITTING and state.held is not None:
        held = replace(state.held, submitted_at=now)
        state = replace(state, held=held, failed_submissions=state.failed_submissions + 1)
    return _wait(state, now)


def _cool_down(state: ValidatorState, until: int, now: float, wall: float) -> Transition:
    """Wait until the validator's clock has certainly passed the end of a cooldown."""
    margin = UNKNOWN_CLOCK_MARGIN if state.clock.offset is None else CLOCK_MARGIN
    end = now + min(max(until - state.clock.validator_time(now, wall), 0.0) + margin, MAX_WAIT)
    return _wait(replace(state, cooldown_end=end), end)


def _on_pull(state: ValidatorState, event: PullCompleted, now: float, wall: float) -> Transition:
    if state.infer_end(event.response) is not None:
        state = replace(state, failed_submissions=0, earlier=None)
    state = replace(state, clock=state.clock.with_date(event.date, now))
    match event.response:
        case responses.TaskAssigned():
            return _on_task(state, event.response, event.sent, now)
        case responses.OnCooldown(until=until):
            settled = replace(state, asked_at=None)
            if until > state.clock.validator_time(now, wall):
                return _cool_down(replace(settled, failed_pulls=0), until, now, wall)
            # We were too early by a clock that is wrong, ours or the one that the validator tells.
            clock = state.clock.with_ceiling(until, now)
            failed = replace(settled, failed_pulls=state.failed_pulls + 1, clock=clock)
            return _wait(failed, now + max(failure_delay(failed.failed_pulls), IDLE_DELAY))
        case responses.NotRegistered():
            return _wait(replace(state, asked_at=None, failed_pulls=0), now + responses.UNREGISTERED_DELAY)
        case responses.NoTask():
            return _wait(replace(state, asked_at=None, failed_pulls=0), now + IDLE_DELAY)
        case responses.PullFailed():
            if event.delivered and state.asked_at is None:
                state = replace(state, asked_at=event.sent)
            state = replace(state, failed_pulls=state.failed_pulls + 1)
            return _wait(state, now + failure_delay(state.failed_pulls))


def _on_task(state: ValidatorState, response: responses.TaskAssigned, sent: float, now: float) -> Transition:
    held = state.held
    if held is not None and held.task.id == response.task.id:
        if held.result is None or held.task.prompt != response.task.prompt:
            held = replace(held, task=response.task, result=None, threshold=response.threshold)
    else:
        asked, submitted_at = sent if state.asked_at is None else state.asked_at, None
        if state.earlier is not None and state.earlier.id == response.task.id:
            asked, submitted_at = state.earlier.assigned_at, state.earlier.submitted_at
        held = HeldTask(response.task, asked, response.throttle_period, None, submitted_at, response.threshold)
    state = replace(state, asked_at=None, failed_pulls=0, earlier=None)
    if held.result is None:
        return replace(state, stage=Stage.HOLDING, held=held), StartGeneration(held)
    return _deliver(state, held, now)


def _on_submission(state: ValidatorState, event: SubmissionCompleted, now: float, wall: float) -> Transition:
    if state.held is not None and event.delivered:
        state = replace(state, held=replace(state.held, submitted_at=event.sent))
    state = replace(state, clock=state.clock.with_date(event.date, now), submitting_since=None)
    outcome = event.response.outcome
    if outcome.closes:
        closed, action = _cool_down(replace(state, failed_submissions=0), event.response.cooldown_until, now, wall)
        if closed.held is not None:
            closed = replace(closed, cooldown_seconds=closed.cooldown_end - closed.held.assigned_at)
        return closed, action
    failures = state.failed_submissions + 1
    delay = failure_delay(failures)
    if outcome is Outcome.STILL_OPEN:
        delay = backoff(failures, LOCK_DELAY, MAX_LOCK_DELAY)
    return _wait(replace(state, failed_submissions=failures), now + delay)
