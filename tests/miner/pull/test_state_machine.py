"""The state machine alone: every event in the states in which it can come."""

from dataclasses import replace

import pytest

from miner.ledger.outcomes import Outcome
from miner.pull.estimates import ClockOffset
from miner.pull.responses import NoTask, NotRegistered, OnCooldown, PullFailed, SubmissionResponse, TaskAssigned
from miner.pull.state_machine import (
    CLOCK_MARGIN,
    DENIED_DELAY,
    IDLE_DELAY,
    Action,
    Event,
    GenerationFinished,
    PolicyDenied,
    PullCompleted,
    SendPull,
    SendSubmission,
    SessionInterrupted,
    StartGeneration,
    SubmissionCompleted,
    TimerFired,
    WaitUntil,
    failure_delay,
    transition,
)
from miner.pull.store import Cooldown, EarlierTask
from miner.pull.validator_state import (
    LOCK_DELAY,
    MAX_WAIT,
    UNKNOWN_CLOCK_MARGIN,
    USUAL_COOLDOWN,
    HeldTask,
    Stage,
    ValidatorState,
)
from miner.subnet.protocol import TextTask

# Our steady clock and our unix time; the validator's clock is ours.
NOW, UNIX = 5_000.0, 1_700_000_000.0
TASK, OTHER = TextTask(id="t", prompt="a chair"), TextTask(id="u", prompt="a table")
NEW = HeldTask(TASK, assigned_at=NOW - 1, throttle_period=30)
HELD = HeldTask(TASK, assigned_at=NOW - 9, throttle_period=30)
DONE, SKIPPED = replace(HELD, result=b"AAAA"), replace(HELD, result=b"")
SENT, UNLOCKED = replace(DONE, submitted_at=NOW - 2), replace(DONE, submitted_at=NOW - LOCK_DELAY)
IDLE = ValidatorState()
PULLING = ValidatorState(Stage.PULLING)
GIVEN, GIVEN_OTHER = (PullCompleted(TaskAssigned(task, 30), NOW - 1) for task in (TASK, OTHER))


def holding(held: HeldTask = HELD) -> ValidatorState:
    return ValidatorState(Stage.HOLDING, held=held)


def submitting(held: HeldTask = DONE, failures: int = 0) -> ValidatorState:
    return ValidatorState(Stage.SUBMITTING, held=held, failed_submissions=failures)


def step(state: ValidatorState, event: Event) -> tuple[ValidatorState, Action]:
    return transition(state, event, NOW, UNIX)


def answered(outcome: Outcome, cooldown: float = 0.0, delivered: bool = True) -> SubmissionCompleted:
    return SubmissionCompleted(SubmissionResponse(outcome, int(UNIX + cooldown), "said so"), NOW - 2, delivered)


def failed(delivered: bool = True) -> PullCompleted:
    return PullCompleted(PullFailed("HTTP 408"), NOW - 12, delivered)


@pytest.mark.parametrize(
    ("state", "event", "stage", "action"),
    [
        # Time passes.
        (IDLE, TimerFired(), Stage.PULLING, SendPull()),
        (ValidatorState(Stage.WAITING, pull_after=NOW), TimerFired(), Stage.PULLING, SendPull()),
        (ValidatorState(Stage.WAITING, pull_after=NOW + 7), TimerFired(), Stage.WAITING, WaitUntil(NOW + 7)),
        (ValidatorState(Stage.IDLE, pull_after=NOW + 7), TimerFired(), Stage.WAITING, WaitUntil(NOW + 7)),
        (holding(SENT), TimerFired(), Stage.HOLDING, WaitUntil(NOW - 2 + LOCK_DELAY)),
        (holding(UNLOCKED), TimerFired(), Stage.SUBMITTING, SendSubmission(UNLOCKED)),
        # Answers to a pull.
        (PULLING, GIVEN, Stage.HOLDING, StartGeneration(NEW)),
        (
            PULLING,
            PullCompleted(OnCooldown(int(UNIX) + 300, 1), NOW),
            Stage.WAITING,
            WaitUntil(NOW + 300 + UNKNOWN_CLOCK_MARGIN),
        ),
        (PULLING, PullCompleted(OnCooldown(2**40, 1), NOW), Stage.WAITING, WaitUntil(NOW + MAX_WAIT)),
        (PULLING, PullCompleted(NotRegistered(), NOW), Stage.WAITING, WaitUntil(NOW + 600)),
        (PULLING, PullCompleted(NoTask(), NOW), Stage.WAITING, WaitUntil(NOW + IDLE_DELAY)),
        (PULLING, failed(), Stage.WAITING, WaitUntil(NOW + 2)),
        (replace(PULLING, failed_pulls=3), failed(), Stage.WAITING, WaitUntil(NOW + 16)),
        # A task handed back: whose result is known, was being made, was sent just now; another task.
        (replace(PULLING, held=DONE), GIVEN, Stage.SUBMITTING, SendSubmission(DONE)),
        (replace(PULLING, held=HELD), GIVEN, Stage.HOLDING, StartGeneration(HELD)),
        (replace(PULLING, held=DONE), GIVEN_OTHER, Stage.HOLDING, StartGeneration(replace(NEW, task=OTHER))),
        (replace(PULLING, held=SENT), GIVEN, Stage.HOLDING, WaitUntil(NOW - 2 + LOCK_DELAY)),
        # The result is there.
        (holding(), GenerationFinished(b"AAAA"), Stage.SUBMITTING, SendSubmission(DONE)),
        (holding(), GenerationFinished(b""), Stage.SUBMITTING, SendSubmission(SKIPPED)),
        # Answers to a submission.
        *(
            (submitting(), answered(outcome, 300), Stage.WAITING, WaitUntil(NOW + 300 + UNKNOWN_CLOCK_MARGIN))
            for outcome in Outcome
            if outcome.closes
        ),
        (submitting(), answered(Outcome.STILL_OPEN), Stage.WAITING, WaitUntil(NOW + LOCK_DELAY)),
        (submitting(failures=1), answered(Outcome.STILL_OPEN), Stage.WAITING, WaitUntil(NOW + 2 * LOCK_DELAY)),
        (submitting(failures=9), answered(Outcome.STILL_OPEN), Stage.WAITING, WaitUntil(NOW + 300)),
        (submitting(), answered(Outcome.NOT_HELD), Stage.WAITING, WaitUntil(NOW + 2)),
        (submitting(failures=2), answered(Outcome.NOT_HELD), Stage.WAITING, WaitUntil(NOW + 8)),
        (submitting(), answered(Outcome.UNKNOWN), Stage.WAITING, WaitUntil(NOW + 2)),
        (submitting(failures=20), answered(Outcome.UNKNOWN), Stage.WAITING, WaitUntil(NOW + 60)),
        # The policy refuses.
        (PULLING, PolicyDenied(), Stage.WAITING, WaitUntil(NOW + DENIED_DELAY)),
        (submitting(), PolicyDenied(), Stage.WAITING, WaitUntil(NOW + DENIED_DELAY)),
        # The loop died.
        (IDLE, SessionInterrupted(), Stage.WAITING, WaitUntil(NOW)),
        (PULLING, SessionInterrupted(), Stage.WAITING, WaitUntil(NOW)),
        (holding(), SessionInterrupted(), Stage.WAITING, WaitUntil(NOW)),
        (submitting(), SessionInterrupted(), Stage.WAITING, WaitUntil(NOW)),
        (ValidatorState(Stage.WAITING, pull_after=NOW + 70), SessionInterrupted(), Stage.WAITING, WaitUntil(NOW + 70)),
    ],
)
def test_transitions(state: ValidatorState, event: Event, stage: Stage, action: Action) -> None:
    after, do = step(state, event)
    assert (after.stage, do) == (stage, action)


def test_a_finished_result_is_kept_until_another_task_comes() -> None:
    """However its submission ends: a validator that was set back hands out a task it had closed."""
    for outcome in Outcome:
        after, _ = step(submitting(), answered(outcome, 300))
        assert after.held is not None
        assert after.held.result == b"AAAA"
        assert after.held.submitted_at == NOW - 2
    after, _ = step(replace(PULLING, held=DONE), GIVEN_OTHER)
    assert after.held is not None
    assert (after.held.task, after.held.result) == (OTHER, None)


def test_the_same_id_with_another_prompt_is_another_task() -> None:
    renamed = TextTask(id="t", prompt="a table")
    after, action = step(replace(PULLING, held=DONE), PullCompleted(TaskAssigned(renamed, 30), NOW))
    assert after.held is not None
    assert action == StartGeneration(after.held)
    assert (after.held.task, after.held.result) == (renamed, None)


def test_a_submission_that_reached_nobody_may_be_sent_again_at_once() -> None:
    after, _ = step(submitting(), answered(Outcome.UNKNOWN, delivered=False))
    assert step(replace(after, stage=Stage.PULLING), GIVEN)[1] == SendSubmission(DONE)


def test_a_submission_cut_short_may_have_arrived() -> None:
    after, _ = step(submitting(), SessionInterrupted())
    assert step(replace(after, stage=Stage.PULLING), GIVEN)[1] == WaitUntil(NOW + LOCK_DELAY)


def test_the_assignment_is_the_earliest_it_can_be() -> None:
    """The pull that timed out may have begun the 30 s; one that was refused has not."""
    for delivered, assigned in ((True, NOW - 12), (False, NOW - 1)):
        state, _ = step(PULLING, failed(delivered))
        state, _ = step(replace(state, stage=Stage.PULLING), GIVEN)
        assert state.held is not None
        assert state.held.assigned_at == assigned
        assert state.asked_at is None


def test_a_task_from_before_our_restart_keeps_its_assignment() -> None:
    state = replace(PULLING, earlier=EarlierTask(id="t", assigned_at=NOW - 400))
    same, _ = step(state, GIVEN)
    other, _ = step(state, GIVEN_OTHER)
    assert same.held is not None
    assert other.held is not None
    assert (same.held.assigned_at, other.held.assigned_at) == (NOW - 400, NOW - 1)


@pytest.mark.parametrize("event", [PolicyDenied(), SessionInterrupted()])
def test_nothing_but_time_shortens_a_cooldown(event: Event) -> None:
    cooling = ValidatorState(Stage.WAITING, pull_after=NOW + 500)
    assert step(cooling, event)[0].pull_after >= NOW + 500


def test_failures_are_forgotten_when_things_go_well() -> None:
    state = replace(PULLING, failed_pulls=5, failed_submissions=5)
    given, _ = step(state, GIVEN)
    assert (given.failed_pulls, given.failed_submissions) == (0, 5)
    assert step(replace(given, stage=Stage.SUBMITTING), answered(Outcome.ACCEPTED, 300))[0].failed_submissions == 0
    assert step(state, PullCompleted(NoTask(), NOW))[0].failed_pulls == 0


def test_a_cooldown_settles_a_submission_of_unknown_fate() -> None:
    state = replace(PULLING, held=SENT, failed_submissions=4)
    assert step(state, PullCompleted(OnCooldown(int(UNIX) + 200, 1), NOW))[0].failed_submissions == 0


def test_back_off_doubles_up_to_a_minute() -> None:
    assert [failure_delay(n) for n in (1, 2, 3, 4, 5, 6, 7, 10_000)] == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("skew", [-3600.0, -7.5, 0.0, 7.5, 3600.0])
def test_waits_are_by_the_validators_clock(skew: float) -> None:
    """Its Date is its time rounded down; ours does not matter then."""
    date = int(UNIX + skew)
    event = replace(answered(Outcome.ACCEPTED, skew + 300), date=date)
    after, _ = step(submitting(), event)
    ends = NOW + 300
    assert ends + CLOCK_MARGIN - 0.5 <= after.pull_after <= ends + CLOCK_MARGIN + 1
    assert after.cooldown_end == after.pull_after


def test_a_date_that_is_wrong_is_found_out() -> None:
    """A proxy's clock is a minute ahead: the first pull is early, and the validator's own words count from then on."""
    state = replace(PULLING, clock=ClockOffset((UNIX + 60 - NOW,)))
    until = int(UNIX) + 20
    state, action = step(state, replace(PullCompleted(OnCooldown(until, 1), NOW), date=UNIX + 60))
    assert action == WaitUntil(NOW + IDLE_DELAY)
    assert state.clock.validator_time(NOW, UNIX) == until
    event = replace(answered(Outcome.ACCEPTED, 20 + 300), date=UNIX + 60)
    assert step(replace(state, stage=Stage.SUBMITTING, held=DONE), event)[1] == WaitUntil(NOW + 300 + CLOCK_MARGIN)


def test_without_dates_our_clock_has_to_do() -> None:
    clock = ClockOffset()
    assert clock.validator_time(NOW, UNIX) == UNIX
    assert clock.with_ceiling(UNIX - 5, NOW).validator_time(NOW + 1, UNIX + 1) == UNIX - 4
    assert clock.with_date(None, NOW) == clock


def test_the_estimate_follows_a_clock_that_was_set_back() -> None:
    clock = ClockOffset().with_date(UNIX, NOW)
    for passed in (300, 600, 900, 1200):
        clock = clock.with_date(UNIX - 50 + passed, NOW + passed)
    assert clock.validator_time(NOW + 1200, 0.0) == UNIX + 1150


@pytest.mark.parametrize(
    ("cooldown_end", "known", "submitted_at", "pull_after"),
    [
        (NOW + 50, 100.0, None, NOW + 50),
        # Accepted, the known or the usual cooldown after its assignment would go on until then.
        (NOW - 500, 100.0, NOW - 5, NOW - 20 + 100 + UNKNOWN_CLOCK_MARGIN),
        (NOW - 500, None, NOW - 5, NOW - 20 + USUAL_COOLDOWN + UNKNOWN_CLOCK_MARGIN),
        # As long as it is being validated, the validator takes nothing.
        (NOW - 500, 10.0, NOW - 5, NOW - 5 + LOCK_DELAY),
        (NOW + 200, 100.0, NOW - 5, NOW + 200),
        (NOW + 10**6, 10.0**6, NOW - 5, NOW + MAX_WAIT),
    ],
)
def test_the_first_pull_after_a_restart_can_be_no_violation(
    cooldown_end: float, known: float | None, submitted_at: float | None, pull_after: float
) -> None:
    task = EarlierTask(id="t", assigned_at=NOW - 20, submitted_at=submitted_at)
    stored = Cooldown(cooldown_end=cooldown_end, cooldown_seconds=known, task=task)
    state = ValidatorState.restored(stored, NOW)
    assert state.pull_after == pull_after
    assert step(state, TimerFired())[1] == WaitUntil(pull_after)


def test_the_threshold_is_that_of_the_pull_that_the_result_is_made_for() -> None:
    told = PullCompleted(TaskAssigned(TASK, 30, 0.7), NOW - 1)
    for before in (PULLING, replace(PULLING, held=replace(HELD, threshold=0.6))):
        state, action = step(before, told)
        assert state.held is not None
        assert state.held.threshold == 0.7
        assert action == StartGeneration(state.held)
    # A result that is there is sent as it was decided.
    state, action = step(replace(PULLING, held=replace(DONE, threshold=0.6)), told)
    assert state.held is not None
    assert state.held.threshold == 0.6
    assert action == SendSubmission(state.held)
