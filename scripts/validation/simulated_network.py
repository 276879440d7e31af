"""Validators, the network to them, a generator, and an event loop in virtual time, in which hours pass in seconds."""

import asyncio
import itertools
import random
import selectors
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar, TypeVarTuple

import bittensor as bt

from miner.gpu import Claim, choose_claim
from miner.localnet import MinerState, SubmissionVerdict, ValidatorRules, ValidatorTiming
from miner.subnet.dendrite import AnySynapse, Reply
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import ProtocolTask, PullTask, SubmitResults, TextTask
from miner.tasks import PromptDecoder, Task
from pipeline import PipelineError

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

UNIX_START = 1_700_000_000.0
GENERATION_SECONDS = 8.0
REJECTED_SHARE, NOT_VALIDATED_SHARE, FAILED_SHARE = 0.05, 0.01, 0.02
LOST_ANSWER_SHARE, SESSION_CRASH_SHARE = 1 / 200, 1 / 500
SAVE_INTERVAL = 600.0


@dataclass(frozen=True)
class ValidatorScenario:
    """What happens to one validator whoever mines: the error of its clock, its outages, and its scores in order.

    An outage is its begin and its end in seconds; a score is None where validation fails.
    """

    clock_error: float
    outages: tuple[tuple[float, float], ...]
    scores: tuple[float | None, ...]

    def is_up(self, now: float) -> bool:
        """Return whether the validator answers."""
        return not any(begin <= now < end for begin, end in self.outages)


def draw_scenario(rng: random.Random, seconds: float) -> ValidatorScenario:
    """Draw about two outages a day of 1 to 20 minutes, each ending with a restart from an old state."""
    count = sum(rng.random() < seconds / 86_400 for _ in range(2))
    begins = sorted(rng.uniform(0.05, 0.9) * seconds for _ in range(count))
    outages = tuple((begin, begin + rng.uniform(60, 1200)) for begin in begins)
    scores = [
        None if x < NOT_VALIDATED_SHARE else 0.5 if x < NOT_VALIDATED_SHARE + REJECTED_SHARE else 0.8
        for x in (rng.random() for _ in range(int(seconds / 250) + 10))
    ]
    return ValidatorScenario(rng.uniform(-60, 60), outages, tuple(scores))


class SimulatedValidator:
    """A validator: its rules, its scenario, and what it counted.

    verdicts: of submissions that ended a task, in order. forgotten: tasks lost to a restart from an old state.
    known_violations: pulls during a cooldown that the miner had been told of; the others are unknown_violations.
    late: results validated more than the throttle period after the assignment. ignored: submissions without effect.
    """

    def __init__(self, uid: int, scenario: ValidatorScenario) -> None:
        """Begin without miners; tasks are numbered."""
        self.uid, self.scenario = uid, scenario
        self.hotkey = bt.Keypair.create_from_uri(f"//validator{uid}").ss58_address
        timing = ValidatorTiming()
        self.rules = ValidatorRules(self.hotkey, self._next_task, lambda _: True, lambda: self.unix_time, timing)
        self.assigned, self.ended, self.forgotten = set[str](), set[str](), set[str]()
        self.verdicts: list[SubmissionVerdict] = []
        self.known_violations = self.unknown_violations = self.late = self.ignored = 0
        # The last cooldown that reached the miner, in the validator's unix seconds.
        self.known_cooldown = 0
        self._scores = itertools.cycle(scenario.scores)

    def _next_task(self) -> ProtocolTask:
        task = TextTask(id=f"{self.uid}-{len(self.assigned)}", prompt="a chair")
        self.assigned.add(task.id)
        return task

    @property
    def neuron(self) -> Neuron:
        """The validator's entry in the metagraph."""
        return Neuron(uid=self.uid, hotkey=self.hotkey, coldkey="c", stake=1000.0 + self.uid, ip="10.0.0.1", port=8091)

    @property
    def unix_time(self) -> float:
        """The time on the validator's clock."""
        return UNIX_START + loop_time() + self.scenario.clock_error

    async def run(self) -> None:
        """Save the state every ten minutes, and restart with what was saved after each outage."""
        saved: dict[str, MinerState] = {}
        for begin, end in (*self.scenario.outages, (float("inf"), float("inf"))):
            while loop_time() + SAVE_INTERVAL < begin:
                await asyncio.sleep(SAVE_INTERVAL)
                saved = self.rules.save_state()
            await asyncio.sleep(max(end - loop_time(), 0.0))
            self.forgotten |= held_tasks(self.rules.miners) - held_tasks(saved)
            self.rules.restore_state(saved)

    def pull(self, miner_hotkey: str, synapse: PullTask) -> None:
        """Answer a pull, and count a violation as known to the miner or not."""
        before = self.rules.miners.get(miner_hotkey, MinerState()).violations
        self.rules.pull(miner_hotkey, synapse)
        if synapse.cooldown_violations > before:
            is_known = self.known_cooldown > self.unix_time
            self.known_violations += is_known
            self.unknown_violations += not is_known

    async def submit(self, miner_hotkey: str, synapse: SubmitResults, rng: random.Random) -> None:
        """Answer a submission after one to three seconds of validation, and note its verdict if it ended the task."""

        async def validate(_task: ProtocolTask, _results: str) -> float | None:
            await asyncio.sleep(rng.uniform(1, 3))
            return next(self._scores)

        assigned_at, task_id = self.rules.miners[miner_hotkey].assigned_at, synapse.task_id
        verdict = await self.rules.submit(miner_hotkey, synapse, validate)
        if verdict in (SubmissionVerdict.WRONG_TASK, SubmissionVerdict.LOCKED, SubmissionVerdict.TOO_SOON):
            self.ignored += 1
        else:
            self.verdicts.append(verdict)
            self.ended.add(task_id)
            self.late += self.unix_time - assigned_at > self.rules.timing.throttle_period


def loop_time() -> float:
    """Return the seconds since the simulation began."""
    return asyncio.get_running_loop().time()


def held_tasks(miners: dict[str, MinerState]) -> set[str]:
    """Return the ids of tasks that are assigned and not ended."""
    return {miner.task.id for miner in miners.values() if miner.task is not None}


class SimulatedNetwork:
    """Validators by hotkey, and a client of them all, with delays, lost answers and requests that outages cut off.

    session_crashes: the number of the miner's sessions that crashed.
    """

    def __init__(self, validators: Sequence[SimulatedValidator], rng: random.Random) -> None:
        """Begin with a new miner."""
        self.validators = {validator.hotkey: validator for validator in validators}
        self.keypair = bt.Keypair.create_from_uri("//miner")
        self.rng = rng
        self.session_crashes = 0

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse and wait for the answer, as a Dendrite does."""
        rng, validator = self.rng, self.validators[neuron.hotkey]
        scenario, miner_hotkey = validator.scenario, self.keypair.ss58_address
        if rng.random() < SESSION_CRASH_SHARE:
            raise RuntimeError("simulated")
        await asyncio.sleep(rng.uniform(0.02, 0.3))
        if not scenario.is_up(loop_time()):
            return _failed(synapse, 503, delivered=False)
        if isinstance(synapse, PullTask):
            validator.pull(miner_hotkey, synapse)
        elif isinstance(synapse, SubmitResults):
            await asyncio.sleep(rng.uniform(0.3, 2))
            refusal = validator.rules.find_refusal(miner_hotkey)
            if not scenario.is_up(loop_time()):
                return _failed(synapse, 503, delivered=True)
            if refusal is not None:
                return _failed(synapse, 403, delivered=False)
            await validator.submit(miner_hotkey, synapse, rng)
        await asyncio.sleep(rng.uniform(0.02, 0.3))
        # Some answers are lost, among them those of a validator that has just gone down.
        if not scenario.is_up(loop_time()) or rng.random() < LOST_ANSWER_SHARE:
            await asyncio.sleep(timeout)
            return _failed(type(synapse).model_construct(dendrite=None), 408, delivered=True)
        if isinstance(synapse, PullTask | SubmitResults) and synapse.cooldown_until:
            validator.known_cooldown = synapse.cooldown_until
        synapse.dendrite = bt.TerminalInfo(status_code=200)
        return Reply(synapse, delivered=True, date=float(int(validator.unix_time)))

    async def aclose_session(self) -> None:
        """Close nothing."""


def _failed(synapse: AnySynapse, code: int, delivered: bool) -> Reply[AnySynapse]:
    synapse.dendrite = bt.TerminalInfo(status_code=code, status_message="simulated")
    return Reply(synapse, delivered, None)


@dataclass(eq=False)
class SimulatedRunner:
    """Takes the place of the task runner: generates one task at a time, in the order of the miner's plan."""

    rng: random.Random
    decoder: PromptDecoder = field(default_factory=PromptDecoder)
    counters: Counter[str] = field(default_factory=Counter)
    _waiting: list[tuple[Claim, asyncio.Event]] = field(default_factory=list)
    _is_free: bool = True

    async def run(self, task: Task) -> Any:
        """Return a result eight seconds after the task's turn came. Raise PipelineError for some tasks."""
        turn = asyncio.Event()
        claim = Claim(loop_time(), task.deadline, task.priority, GENERATION_SECONDS, is_first=True)
        self._waiting.append((claim, turn))
        self._start_next()
        await turn.wait()
        try:
            await asyncio.sleep(GENERATION_SECONDS)
        finally:
            self._is_free = True
            self._start_next()
        if self.rng.random() < FAILED_SHARE:
            raise PipelineError("simulated")
        return SimpleNamespace(data=b"Result")

    def _start_next(self) -> None:
        if self._is_free and self._waiting:
            claims = [claim for claim, _ in self._waiting]
            _, turn = self._waiting.pop(choose_claim(claims, loop_time(), GENERATION_SECONDS))
            self._is_free = False
            turn.set()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is left to do.

    Work for threads is done at once and takes no time, since the clock would jump while a thread works.
    """

    def __init__(self) -> None:
        """Start at 0 seconds."""
        self._seconds = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        """Call a function now; return a future that is done."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # belongs to whoever awaits the future
            future.set_exception(error)
        return future

    def _jump(self, seconds: float | None) -> None:
        assert seconds is not None, "everything waits for something that never comes"
        self._seconds += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._jump(timeout)
        return ready
