"""The IO of pulling from one validator: does what the state machine says and tells it what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import bittensor as bt

from miner.config.settings import PullingSettings
from miner.ledger.outcomes import Outcome
from miner.ledger.recorder import Entry, TaskRecorder
from miner.policy.policy import PolicyDecision
from miner.pull.overhead import OverheadEstimator, deadline
from miner.pull.responses import OnCooldown, PullResponse, TaskAssigned, read_pull, read_submission
from miner.pull.state_machine import (
    Action,
    Event,
    GenerationFinished,
    HeldTask,
    PolicyDenied,
    PullCompleted,
    SendPull,
    SendSubmission,
    SessionInterrupted,
    Stage,
    StartGeneration,
    SubmissionCompleted,
    TimerFired,
    ValidatorState,
    WaitUntil,
    transition,
)
from miner.runtime.clock import Clock
from miner.runtime.logging import sanitise_name
from miner.subnet.dendrite import Transport
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import PullTask, sign_submission
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Task
from pipeline import Cancelled, PipelineError

log = logging.getLogger(__name__)

# A difference of clocks that the operator should hear of, in seconds.
NOTABLE_SKEW = 10.0
# A clock set to another time zone is off by less; what differs by more is not a clock.
INCREDIBLE_SKEW = 86_400.0


@dataclass
class ValidatorRecord:
    """What outlives a validator's loop: where it is, what we do with it, how long it takes to take a result.

    `entry` is that of the last task.
    """

    neuron: Neuron
    state: ValidatorState = field(default_factory=ValidatorState)
    margin: OverheadEstimator = field(default_factory=OverheadEstimator)
    entry: Entry | None = None

    @property
    def name(self) -> str:
        """For the log."""
        return f"validator {self.neuron.uid} ({self.neuron.hotkey[:8]})"


@dataclass(frozen=True)
class SessionContext:
    """What all loops share."""

    keypair: bt.Keypair
    runner: TaskRunner
    decide: Callable[[str], PolicyDecision]
    settings: PullingSettings
    clock: Clock
    books: TaskRecorder = field(default_factory=TaskRecorder)


class ValidatorSession:
    """Works for one validator; one call at a time, as the validator's nonces demand."""

    def __init__(
        self,
        record: ValidatorRecord,
        environment: SessionContext,
        connect: Callable[[], Transport],
        changed: Callable[[], None],
    ) -> None:
        """`connect` makes a client for this validator alone; `changed` is called after each transition."""
        self.retiring = False
        self._record = record
        self._environment = environment
        self._connect = connect
        self._changed = changed
        self._encode_seconds = 0.0
        self._denied_for = ""
        self._skew_told = False

    async def run(self) -> None:
        """Until cancelled, or retiring and without a task; may be called again after it raised."""
        neuron = self._record.neuron
        log.info("Pulling from %s at %s:%d", self._record.name, neuron.ip, neuron.port)
        transport = self._connect()
        try:
            resting = self._record.state.stage in (Stage.IDLE, Stage.WAITING)
            action = self._advance(TimerFired() if resting else SessionInterrupted())
            while not self.retiring or self._record.state.busy:
                action = self._advance(await self._perform(action, transport))
        except Cancelled:
            # The generator stops, and we with it; the validator keeps the task for us.
            return
        finally:
            await transport.aclose_session()

    def _advance(self, event: Event) -> Action:
        record, clock = self._record, self._environment.clock
        record.state, action = transition(record.state, event, clock.now(), clock.wall())
        self._changed()
        if (
            isinstance(event, PullCompleted)
            and not isinstance(event.answer, TaskAssigned)
            and isinstance(action, WaitUntil)
        ):
            # Of an outage the beginning is a warning.
            level = logging.WARNING if record.state.failed_pulls == 1 else logging.INFO
            seconds = action.until - clock.now()
            log.log(level, "No task of %s: %s; next pull in %.0f s", record.name, event.answer, seconds)
        return action

    async def _perform(self, action: Action, transport: Transport) -> Event:
        match action:
            case WaitUntil(until=until):
                if (seconds := until - self._environment.clock.now()) > 0:
                    await self._environment.clock.sleep(seconds)
                return TimerFired()
            case SendPull():
                return PolicyDenied() if self._is_denied("nothing is pulled from") else await self._pull(transport)
            case StartGeneration():
                return GenerationFinished(await self._generate(self._held))
            case SendSubmission():
                withheld = f"Task {sanitise_name(self._held.task.id)}: result withheld from"
                return PolicyDenied() if self._is_denied(withheld) else await self._submit(transport, self._held)

    @property
    def _held(self) -> HeldTask:
        assert self._record.state.held is not None
        return self._record.state.held

    def _is_denied(self, consequence: str) -> bool:
        decision = self._environment.decide(self._record.neuron.hotkey)
        reason = "" if decision.allowed else f"{consequence} {self._record.name}: {decision.reason}"
        if reason and reason != self._denied_for:
            log.warning("%s", reason[0].upper() + reason[1:])
        self._denied_for = reason
        return not decision.allowed

    def _credible(self, date: float | None) -> float | None:
        """The validator's time, if it can be that; the operator hears of a notable difference once."""
        if date is None:
            return None
        skew = date - self._environment.clock.wall()
        if abs(skew) > NOTABLE_SKEW and not self._skew_told:
            self._skew_told = True
            log.warning(
                "The clock of %s differs from ours by %.0f s; is ours synchronised (timedatectl)?",
                self._record.name,
                skew,
            )
        return date if abs(skew) < INCREDIBLE_SKEW else None

    async def _pull(self, transport: Transport) -> PullCompleted:
        record, environment = self._record, self._environment
        sent = environment.clock.now()
        reply = await transport.exchange(record.neuron, PullTask(), environment.settings.pull_timeout)
        answer = read_pull(reply.synapse)
        self._tell(answer)
        return PullCompleted(answer, sent, reply.delivered, self._credible(reply.date))

    def _tell(self, answer: PullResponse) -> None:
        """What an answer says of tasks, for the log; each task's end stands there, also one that has to be inferred."""
        record = self._record
        held, unsettled = record.state.held, record.state.failed_submissions > 0
        before = "" if held is None else sanitise_name(held.task.id)
        if isinstance(answer, OnCooldown) and unsettled:
            log.info("Task %s: its submission to %s has counted, accepted or not", before, record.name)
            self._settle(Outcome.UNSCORED, None, answer.until)
        if not isinstance(answer, TaskAssigned):
            return
        name = sanitise_name(answer.task.id)
        if held is not None and held.task.id == answer.task.id:
            what = "its result is sent again" if held.results is not None else "it is generated again"
            log.info("Task %s: handed back by %s, %s", name, record.name, what)
            return
        if unsettled:
            log.warning("Task %s: %s holds it no longer, its result has no taker", before, record.name)
            self._settle(Outcome.NOT_HELD, None, None)
        self._environment.runner.counters["pulled"] += 1
        log.info("Task %s: pulled from %s, %s", name, record.name, answer.task.type)

    def _settle(self, outcome: Outcome, score: float | None, cooldown_until: float | None) -> None:
        """Tell the ledger how the last task ended."""
        if self._record.entry is not None:
            self._record.entry.answered(outcome.value, score, cooldown_until)

    async def _generate(self, held: HeldTask) -> str:
        """The result in base64, or an empty string, which skips the task without a penalty."""
        record, environment = self._record, self._environment
        if record.entry is None or record.entry.task_id != held.task.id:
            hotkey = record.neuron.hotkey
            record.entry = environment.books.entry("pull", hotkey, held.task.id, held.task.type)
        task = Task(
            held.task.id,
            held.task.type,
            held.task.prompt,
            environment.decide(record.neuron.hotkey).priority,
            deadline=deadline(held.assigned_at, held.throttle_period, record.margin),
            entry=record.entry,
        )
        try:
            result = await environment.runner.run(task)
        except Cancelled:
            log.warning(
                "Task %s: not finished; %s hands it back after the restart", sanitise_name(held.task.id), record.name
            )
            raise
        except PipelineError:
            return ""
        self._encode_seconds = result.encode_seconds
        return result.base64

    async def _submit(self, transport: Transport, held: HeldTask) -> SubmissionCompleted:
        record, environment = self._record, self._environment
        results = held.results or ""
        hotkey = record.neuron.hotkey
        submission = sign_submission(held.task, results, time.time_ns(), environment.keypair, hotkey)
        sent = environment.clock.now()
        reply = await transport.exchange(record.neuron, submission, environment.settings.submit_timeout)
        received = environment.clock.now()
        date = self._credible(reply.date)
        validator_time = record.state.clock.seen(date, received).at(received, environment.clock.wall())
        again = held.submitted_at is not None
        answer = read_submission(reply.synapse, skipped=not results, again=again, validator_time=validator_time)
        if results and answer.outcome.closes:
            record.margin = record.margin.after(self._encode_seconds + received - sent)
        environment.runner.counters[answer.outcome.value] += 1
        self._settle(answer.outcome, answer.score, answer.cooldown_until)
        expected = answer.outcome in (Outcome.ACCEPTED, Outcome.SKIPPED)
        log.log(
            logging.INFO if expected else logging.WARNING,
            "Task %s: %s to %s: %s",
            sanitise_name(held.task.id),
            f"{len(results)} bytes submitted" if results else "empty result submitted",
            record.name,
            answer.reason,
        )
        return SubmissionCompleted(answer, sent, reply.delivered, date)
