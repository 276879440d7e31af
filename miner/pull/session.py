"""The I/O of pulling from one validator: performs the state machine's actions and reports what came of them."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import bittensor as bt

from miner.config import PullingSettings
from miner.ledger import Outcome, TaskRecord, TaskRecorder
from miner.policy import PolicyDecision
from miner.pull import state_machine as machine
from miner.pull.estimates import OverheadEstimator, generation_deadline
from miner.pull.responses import OnCooldown, PullResponse, TaskAssigned, is_credible, read_pull, read_submission
from miner.pull.state_machine import transition
from miner.pull.validator_state import HeldTask, Stage, ValidatorState
from miner.runtime import Clock, sanitise_name
from miner.subnet.dendrite import Transport
from miner.subnet.encoding import encode_result
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import PullTask, sign_submission
from miner.tasks import Task, TaskRunner
from miner.words import plural
from pipeline import Cancelled, PipelineError

log = logging.getLogger(__name__)

# A difference of clocks that the operator should know of, in seconds.
NOTABLE_SKEW = 10.0
SKIP = b""


@dataclass
class ValidatorRecord:
    """What outlives a session: address, state, overhead, and the ledger's record of the last task, if any."""

    neuron: Neuron
    state: ValidatorState = field(default_factory=ValidatorState)
    overhead: OverheadEstimator = field(default_factory=OverheadEstimator)
    task_record: TaskRecord | None = None

    @property
    def name(self) -> str:
        """The validator's uid and the beginning of its hotkey, for the log."""
        return f"validator {self.neuron.uid} ({self.neuron.hotkey[:8]})"

    @property
    def phase_words(self) -> str:
        """The phase of the last task, for the end of a sentence in the log; "" before its generation."""
        assignment = self.task_record.assignment if self.task_record else None
        return f", phase {sanitise_name(assignment.phase)}" if assignment else ""


@dataclass(frozen=True)
class SessionContext:
    """What all sessions share; `decide` asks the policy about a hotkey."""

    keypair: bt.Keypair
    runner: TaskRunner
    decide: Callable[[str], PolicyDecision]
    settings: PullingSettings
    clock: Clock
    recorder: TaskRecorder = field(default_factory=TaskRecorder)


@dataclass(eq=False)
class ValidatorSession:
    """Works for one validator, one call at a time for its nonces; once `is_retiring`, it ends when it holds no task.

    `connect` makes a client for this validator alone; `on_transition` is called after each change of the state.
    """

    record: ValidatorRecord
    context: SessionContext
    connect: Callable[[], Transport]
    on_transition: Callable[[], None]
    is_retiring: bool = False
    _last_denial: str = ""
    _has_reported_skew: bool = False

    async def run(self) -> None:
        """Work until cancelled, or until retiring without a task; may be called again after it raised."""
        neuron = self.record.neuron
        log.info("Pulling from %s at %s:%d", self.record.name, neuron.ip, neuron.port)
        transport = self.connect()
        try:
            is_resting = self.record.state.stage in (Stage.IDLE, Stage.WAITING)
            action = self._advance(machine.TimerFired() if is_resting else machine.SessionInterrupted())
            while not self.is_retiring or self.record.state.is_busy:
                action = self._advance(await self._perform(action, transport))
        except Cancelled:
            # The generator stops, and the session with it; the validator keeps the task for us.
            return
        finally:
            await transport.aclose_session()

    def _advance(self, event: machine.Event) -> machine.Action:
        record, clock = self.record, self.context.clock
        record.state, action = transition(record.state, event, clock.now(), clock.wall())
        self.on_transition()
        if (
            isinstance(event, machine.PullCompleted)
            and not isinstance(event.response, TaskAssigned)
            and isinstance(action, machine.WaitUntil)
        ):
            # Only the beginning of an outage is a warning.
            level = logging.WARNING if record.state.failed_pulls == 1 else logging.INFO
            seconds = action.moment - clock.now()
            log.log(level, "No task of %s: %s; next pull in %.0f s", record.name, event.response.reason, seconds)
        return action

    async def _perform(self, action: machine.Action, transport: Transport) -> machine.Event:
        match action:
            case machine.WaitUntil(moment=moment):
                if (seconds := moment - self.context.clock.now()) > 0:
                    await self.context.clock.sleep(seconds)
                return machine.TimerFired()
            case machine.SendPull():
                is_denied = self._is_denied("nothing is pulled from")
                return machine.PolicyDenied() if is_denied else await self._pull(transport)
            case machine.StartGeneration(held=held):
                return machine.GenerationFinished(await self._generate(held))
            case machine.SendSubmission(held=held):
                withheld = f"Task {sanitise_name(held.task.id)}: result withheld from"
                return machine.PolicyDenied() if self._is_denied(withheld) else await self._submit(transport, held)

    def _is_denied(self, consequence: str) -> bool:
        decision = self.context.decide(self.record.neuron.hotkey)
        denial = "" if decision.allowed else f"{consequence} {self.record.name}: {decision.reason}"
        if denial and denial != self._last_denial:
            log.warning("%s", denial[0].upper() + denial[1:])
        self._last_denial = denial
        return not decision.allowed

    def _credible(self, date: float | None, cooldown_until: int) -> float | None:
        """Return the validator's time if it is credible; warn once of a notable difference."""
        if date is None:
            return None
        wall = self.context.clock.wall()
        skew = date - wall
        if abs(skew) > NOTABLE_SKEW and not self._has_reported_skew:
            self._has_reported_skew = True
            name = self.record.name
            log.warning("The clock of %s differs from ours by %.0f s; is ours synchronised (timedatectl)?", name, skew)
        return date if is_credible(date, cooldown_until, wall) else None

    async def _pull(self, transport: Transport) -> machine.PullCompleted:
        record, context = self.record, self.context
        sent = context.clock.now()
        reply = await transport.exchange(record.neuron, PullTask(), context.settings.pull_timeout)
        response = read_pull(reply.synapse)
        self._record_response(response)
        date = self._credible(reply.date, reply.synapse.cooldown_until)
        return machine.PullCompleted(response, sent, reply.delivered, date)

    def _record_response(self, response: PullResponse) -> None:
        """Log and record what a response tells of tasks, also the end of one that can only be inferred."""
        record = self.record
        held, earlier = record.state.held, record.state.earlier
        if outcome := record.state.infer_end(response):
            self._record_inferred_end(outcome, response.until if isinstance(response, OnCooldown) else None)
        if not isinstance(response, TaskAssigned):
            return
        task_id = sanitise_name(response.task.id)
        if response.task.id in (held and held.id, earlier and earlier.id):
            next_step = "its result is sent again" if held and held.result is not None else "it is generated again"
            log.info("Task %s: handed back by %s, %s", task_id, record.name, next_step)
            return
        self.context.runner.counters["pulled"] += 1
        log.info("Task %s: pulled from %s, %s", task_id, record.name, response.task.type)

    def _record_inferred_end(self, outcome: Outcome, cooldown_until: float | None) -> None:
        """Log and record the end of the last task, or of the one that was in hand before a restart."""
        record, earlier = self.record, self.record.state.earlier
        if record.task_record is None and earlier is not None:
            record.task_record = self.context.recorder.open("pull", record.neuron.hotkey, earlier.id, earlier.type)
        if record.task_record is None:
            return
        task_id = sanitise_name(record.task_record.task_id)
        if outcome is Outcome.CLOSED_WITHOUT_SCORE:
            log.info("Task %s: its submission to %s has counted, accepted or not", task_id, record.name)
        else:
            log.warning("Task %s: %s no longer holds it, nobody takes its result", task_id, record.name)
        record.task_record.ended(outcome, cooldown_until)

    async def _generate(self, held: HeldTask) -> bytes:
        """Return the result's file, or SKIP, which costs no penalty."""
        record, context = self.record, self.context
        task_record = record.task_record
        if task_record is None or task_record.task_id != held.task.id:
            task_record = context.recorder.open("pull", record.neuron.hotkey, held.task.id, held.task.type)
            record.task_record = task_record
        try:
            decoder, sender = context.runner.decoder, record.neuron.hotkey
            prompt = await decoder.decode(held.task.type, held.task.prompt, sender)
        except Cancelled:
            raise
        except Exception as error:  # no prompt may stop the session, which would be handed it again
            context.runner.decline(held.task.id, task_record, error)
            return SKIP
        priority = context.decide(record.neuron.hotkey).priority
        deadline = generation_deadline(held.assigned_at, held.throttle_period, record.overhead)
        task = Task(held.task.id, prompt, priority, deadline=deadline, record=task_record, threshold=held.threshold)
        try:
            result = await context.runner.run(task)
        except Cancelled:
            task_id = sanitise_name(held.task.id)
            log.warning("Task %s: not finished; %s hands it back after the restart", task_id, record.name)
            raise
        except PipelineError:
            return SKIP
        return result.data

    async def _submit(self, transport: Transport, held: HeldTask) -> machine.SubmissionCompleted:
        record, context = self.record, self.context
        started = context.clock.now()
        results = await asyncio.to_thread(encode_result, held.result or SKIP)
        hotkey = record.neuron.hotkey
        submission = sign_submission(held.task, results, time.time_ns(), context.keypair, hotkey)
        sent = context.clock.now()
        reply = await transport.exchange(record.neuron, submission, context.settings.submit_timeout)
        received = context.clock.now()
        date = self._credible(reply.date, reply.synapse.cooldown_until)
        response = read_submission(
            reply.synapse,
            is_skip=not results,
            is_repeat=held.submitted_at is not None,
            validator_time=record.state.clock.with_date(date, received).validator_time(received, context.clock.wall()),
        )
        if results and response.outcome.closes:
            record.overhead = record.overhead.with_sample(received - started)
        if reply.connected:
            context.runner.counters[response.outcome] += 1
            if record.task_record is not None:
                record.task_record.answered(response.outcome, response.score, response.cooldown_until)
        is_expected = response.outcome in (Outcome.ACCEPTED, Outcome.SKIPPED)
        level = logging.INFO if is_expected else logging.WARNING
        what = plural(len(results), "byte") if results else "empty result"
        done = f"{what} submitted" if reply.connected else f"{what} could not be submitted"
        to = f"{record.name}{record.phase_words}"
        log.log(level, "Task %s: %s to %s: %s", sanitise_name(held.id), done, to, response.reason)
        return machine.SubmissionCompleted(response, sent, reply.delivered, date)
