"""A day of pulling in seconds: the miner's own loops against models of validators, in virtual time.

    python scripts/proofs/simulated_day.py [--hours 24] [--validators 7] [--seed 0]

Real: the state machine, the loops, the puller, the supervisor, the file of cooldowns, signatures and their checks.
Modelled: the network (delays, time-outs, lost answers), the validators (miner/validator_model.py: the rules of the
subnet's own), one generator that takes eight seconds, our restarts. Validators go down, restart with a state up to ten
minutes old, reject some results, fail to validate others, and their clocks are off by up to a minute; our loops die
now and then of a simulated bug.

The last line is a JSON document. Exit code 0 only if no cooldown was violated that we could have known, no task was
lost, and accepted results are within 2 % of what an all-knowing miner gets from the same validators.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import selectors
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bittensor as bt

from miner.config.settings import PullingSettings
from miner.gpu.scheduler import Urgency, most_urgent
from miner.localnet.validator_rules import MinerState, SubmissionVerdict, ValidatorRules, ValidatorTiming
from miner.policy.policy import PolicyDecision
from miner.pull.puller import Puller
from miner.pull.session import SessionContext
from miner.pull.store import CooldownStore
from miner.runtime.clock import Clock
from miner.runtime.supervisor import Supervisor
from miner.subnet.dendrite import AnySynapse, Reply
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.protocol import ProtocolTask, PullTask, SubmitResults, TextTask
from miner.tasks.task import Task
from pipeline import PipelineError

UNIX_START = 1_700_000_000.0
GENERATION = 8.0
RESULT = "UmVzdWx0"
REJECTED_SHARE, UNVALIDATED_SHARE, FAILED_SHARE = 0.05, 0.01, 0.02
LOST_ANSWER_SHARE, LOOP_DEATH_SHARE = 1 / 200, 1 / 500
SAVE_INTERVAL = 600.0
BOUND = 0.98


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is left to do."""

    def __init__(self) -> None:
        self._virtual = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self._virtual

    def _jump(self, seconds: float | None) -> None:
        assert seconds is not None, "everything waits for something that never comes"
        self._virtual += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._jump(timeout)
        return ready


@dataclass(frozen=True)
class Plan:
    """What happens to one validator, whoever mines: when it is down, by how much its clock is off, what it finds."""

    clock_error: float
    outages: tuple[tuple[float, float], ...]
    scores: tuple[float | None, ...]

    def is_up(self, now: float) -> bool:
        """Whether it answers."""
        return not any(begin <= now < end for begin, end in self.outages)

    def up_from(self, now: float) -> float:
        """The first moment from `now` on at which it answers."""
        return next((end for begin, end in self.outages if begin <= now < end), now)


def make_plan(rng: random.Random, seconds: float) -> Plan:
    """About two outages a day of 1 to 20 minutes, each ending with a restart from an old state."""
    count = sum(rng.random() < seconds / 86_400 for _ in range(2))
    begins = sorted(rng.uniform(0.05, 0.9) * seconds for _ in range(count))
    outages = tuple((begin, begin + rng.uniform(60, 1200)) for begin in begins)
    scores = [
        None if draw < UNVALIDATED_SHARE else 0.5 if draw < UNVALIDATED_SHARE + REJECTED_SHARE else 0.8
        for draw in (rng.random() for _ in range(int(seconds / 250) + 10))
    ]
    return Plan(rng.uniform(-60, 60), outages, tuple(scores))


@dataclass
class Tally:
    """What a validator saw; `verdicts` of submissions that ended a task, in order."""

    verdicts: list[SubmissionVerdict] = field(default_factory=list)
    assigned: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    known_violations: int = 0
    learning_violations: int = 0
    late: int = 0


class World:
    """Validators, network and generator in virtual time."""

    def __init__(self, plans: Sequence[Plan], keypair: bt.Keypair, rng: random.Random) -> None:
        self.plans = plans
        self.keypair = keypair
        self.rng = rng
        self.neurons: list[Neuron] = []
        self.models: dict[str, ValidatorRules] = {}
        self.tallies: dict[str, Tally] = {}
        self.ignored: Counter[SubmissionVerdict] = Counter()
        self.loop_deaths = 0
        self._drawn: Counter[str] = Counter()
        # The last cooldown that each validator managed to tell us.
        self._told: dict[str, int] = {}
        for uid, plan in enumerate(plans):
            self._add(uid, plan)

    @staticmethod
    def now() -> float:
        """Seconds since the simulation began."""
        return asyncio.get_running_loop().time()

    def _add(self, uid: int, plan: Plan) -> None:
        hotkey = bt.Keypair.create_from_uri(f"//validator{uid}").ss58_address
        tally, numbers = Tally(), itertools.count()

        def next_task() -> ProtocolTask:
            task = TextTask(id=f"{uid}-{next(numbers)}", prompt="a chair")
            tally.assigned.add(task.id)
            return task

        unix: Callable[[], float] = lambda: UNIX_START + self.now() + plan.clock_error  # noqa: E731
        self.models[hotkey] = ValidatorRules(hotkey, next_task, lambda _: True, unix, ValidatorTiming())
        self.tallies[hotkey] = tally
        self.neurons.append(Neuron(uid=uid, hotkey=hotkey, coldkey="c", stake=1000.0 + uid, ip="10.0.0.1", port=8091))

    def plan_of(self, hotkey: str) -> Plan:
        """What happens to this validator."""
        return self.plans[next(neuron.uid for neuron in self.neurons if neuron.hotkey == hotkey)]

    async def live(self, hotkey: str) -> None:
        """A validator's days: it saves its state every ten minutes and comes back from an outage with what it saved."""
        model, plan, tally = self.models[hotkey], self.plan_of(hotkey), self.tallies[hotkey]
        saved: dict[str, MinerState] = {}
        for begin, end in (*plan.outages, (float("inf"), float("inf"))):
            while self.now() + SAVE_INTERVAL < begin:
                await asyncio.sleep(SAVE_INTERVAL)
                saved = model.state()
            await asyncio.sleep(max(end - self.now(), 0.0))
            held = {miner.task.id for miner in model.miners.values() if miner.task is not None}
            restored = {miner.task.id for miner in saved.values() if miner.task is not None}
            tally.forgotten |= held - restored
            model.restart(saved)

    async def validate(self, hotkey: str) -> float | None:
        """Takes one to three seconds."""
        await asyncio.sleep(self.rng.uniform(1, 3))
        number = self._drawn[hotkey]
        self._drawn[hotkey] += 1
        scores = self.plan_of(hotkey).scores
        return scores[number % len(scores)]

    def pull(self, hotkey: str, synapse: PullTask) -> None:
        """The validator's answer, and note of what it counted."""
        miner = self.models[hotkey].miners.get(self.keypair.ss58_address, MinerState())
        before = miner.violations
        self.models[hotkey].pull(self.keypair.ss58_address, synapse)
        if synapse.cooldown_violations > before:
            known = self._told.get(hotkey, 0) > UNIX_START + self.now() + self.plan_of(hotkey).clock_error
            self.tallies[hotkey].known_violations += known
            self.tallies[hotkey].learning_violations += not known

    async def submit(self, hotkey: str, synapse: SubmitResults) -> None:
        """The validator's answer, and note of its verdict."""
        model, tally = self.models[hotkey], self.tallies[hotkey]
        miner = model.miners[self.keypair.ss58_address]
        assigned_at, task_id = miner.assigned_at, synapse.task_id
        verdict = await model.submit(self.keypair.ss58_address, synapse, lambda *_: self.validate(hotkey))
        if verdict in (SubmissionVerdict.WRONG_TASK, SubmissionVerdict.LOCKED, SubmissionVerdict.TOO_SOON):
            self.ignored[verdict] += 1
        else:
            tally.verdicts.append(verdict)
            tally.ended.add(task_id)
            unix = UNIX_START + self.now() + self.plan_of(hotkey).clock_error
            tally.late += unix - assigned_at > model.timing.throttle_period

    def told(self, hotkey: str, cooldown_until: int) -> None:
        """An answer with a cooldown has arrived."""
        self._told[hotkey] = cooldown_until


class Line:
    """A client of one validator: delays, and what happens to requests when the other side goes down."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """As a Dendrite's."""
        world, hotkey = self._world, neuron.hotkey
        plan = world.plan_of(hotkey)
        if world.rng.random() < LOOP_DEATH_SHARE:
            raise RuntimeError("simulated")
        await asyncio.sleep(world.rng.uniform(0.02, 0.3))
        if not plan.is_up(world.now()):
            return self._failed(synapse, 503, delivered=False)
        if isinstance(synapse, PullTask):
            world.pull(hotkey, synapse)
        elif isinstance(synapse, SubmitResults):
            await asyncio.sleep(world.rng.uniform(0.3, 2))
            refusal = world.models[hotkey].refusal(world.keypair.ss58_address)
            if not plan.is_up(world.now()):
                return self._failed(synapse, 503, delivered=True)
            if refusal is not None:
                return self._failed(synapse, 403, delivered=False)
            await world.submit(hotkey, synapse)
        await asyncio.sleep(world.rng.uniform(0.02, 0.3))
        # Some answers get lost, and so do those of a validator that has just gone down.
        if not plan.is_up(world.now()) or world.rng.random() < LOST_ANSWER_SHARE:
            await asyncio.sleep(timeout)
            return self._failed(type(synapse).model_construct(dendrite=None), 408, delivered=True)
        if isinstance(synapse, PullTask | SubmitResults) and synapse.cooldown_until:
            world.told(hotkey, synapse.cooldown_until)
        synapse.dendrite = bt.TerminalInfo(status_code=200)
        return Reply(synapse, delivered=True, date=float(int(UNIX_START + world.now() + plan.clock_error)))

    @staticmethod
    def _failed(synapse: AnySynapse, code: int, delivered: bool) -> Reply[AnySynapse]:
        synapse.dendrite = bt.TerminalInfo(status_code=code, status_message="simulated")
        return Reply(synapse, delivered, None)

    async def aclose_session(self) -> None:
        """Nothing to close."""


class Generator:
    """In the place of the task runner: one task at a time, in the scheduler's order."""

    def __init__(self, rng: random.Random) -> None:
        self.counters: Counter[str] = Counter()
        self._rng = rng
        self._waiting: list[tuple[Urgency, asyncio.Event]] = []
        self._free = True

    async def run(self, task: Task) -> Any:
        """Eight seconds after its turn came; some tasks fail."""
        turn = asyncio.Event()
        self._waiting.append((Urgency(task.deadline, task.priority), turn))
        self._hand_on()
        await turn.wait()
        try:
            await asyncio.sleep(GENERATION)
        finally:
            self._free = True
            self._hand_on()
        if self._rng.random() < FAILED_SHARE:
            raise PipelineError("simulated")
        return SimpleNamespace(base64=RESULT, encode_seconds=0.5)

    def _hand_on(self) -> None:
        if self._free and self._waiting:
            now = asyncio.get_running_loop().time()
            _, turn = self._waiting.pop(most_urgent([urgency for urgency, _ in self._waiting], now, GENERATION))
            self._free = False
            turn.set()


async def simulate(world: World, seconds: float, restarts: Sequence[tuple[float, float]], folder: Path) -> None:
    """Mine for so long, with (begin, end) of the spells in which we are down."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time, lambda: UNIX_START + loop.time(), asyncio.sleep)
    snapshot = Snapshot(17, 1, tuple(world.neurons))
    lives = [asyncio.create_task(world.live(neuron.hotkey)) for neuron in world.neurons]
    file = CooldownStore(folder / "cooldowns.json")
    for begin, end in (*restarts, (seconds, seconds)):
        supervisor = Supervisor(clock)
        environment = SessionContext(
            world.keypair,
            Generator(world.rng),  # type: ignore[arg-type]
            lambda hotkey: PolicyDecision(True, "", snapshot.find(hotkey).stake),  # type: ignore[union-attr]
            PullingSettings(),
            clock,
        )
        puller = Puller(environment, supervisor, file, lambda: Line(world))
        puller.update(snapshot)
        await asyncio.sleep(begin - loop.time())
        # Killed, not stopped: tasks in hand are lost to us, and handed back.
        await supervisor.stop()
        world.loop_deaths += supervisor.restarts.total()
        await asyncio.sleep(end - loop.time())
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


def possible(world: World, seconds: float, restarts: Sequence[tuple[float, float]]) -> int:
    """Accepted results of a miner that knows everything: no delay, no margin, a generator for each validator.

    It suffers what no miner can help: outages, our restarts, and the same verdicts in the same order.
    """
    timing, total = ValidatorTiming(), 0
    for neuron in world.neurons:
        plan, verdicts = world.plan_of(neuron.hotkey), itertools.cycle(world.tallies[neuron.hotkey].verdicts)
        now = 0.0
        while True:
            moved = True
            while moved:
                later = plan.up_from(next((end for begin, end in restarts if begin <= now < end), now))
                moved, now = later > now, later
            if now >= seconds:
                break
            verdict = next(verdicts)
            total += verdict is SubmissionVerdict.ACCEPTED
            now += timing.task_cooldown + (timing.cooldown_penalty if verdict is SubmissionVerdict.REJECTED else 0)
    return total


def run(hours: float, validators: int, seed: int) -> dict[str, Any]:
    """One simulation; its figures."""
    rng = random.Random(seed)  # noqa: S311
    seconds = hours * 3600
    plans = [make_plan(rng, seconds) for _ in range(validators)]
    begins = sorted(rng.uniform(0.1, 0.9) * seconds for _ in range(max(round(hours / 8), 1)))
    restarts = [(begin, begin + rng.uniform(15, 90)) for begin in begins]
    world = World(plans, bt.Keypair.create_from_uri("//miner"), rng)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(simulate(world, seconds, restarts, Path(folder)))
    tallies = world.tallies.values()
    verdicts = Counter(verdict for tally in tallies for verdict in tally.verdicts)
    # What is in a validator's hands at the end is neither done nor lost.
    held = {miner.task.id for model in world.models.values() for miner in model.miners.values() if miner.task}
    lost = set().union(*(tally.assigned - tally.ended - tally.forgotten for tally in tallies)) - held
    accepted, best = verdicts[SubmissionVerdict.ACCEPTED], possible(world, seconds, restarts)
    return {
        "hours": hours,
        "validators": validators,
        "seed": seed,
        "our_restarts": len(restarts),
        "our_loops_died": world.loop_deaths,
        "outages": sum(len(plan.outages) for plan in plans),
        "assigned": sum(len(tally.assigned) for tally in tallies),
        "lost": len(lost),
        "forgotten_by_validators": sum(len(tally.forgotten) for tally in tallies),
        "violations_of_known_cooldowns": sum(tally.known_violations for tally in tallies),
        "violations_to_learn": sum(tally.learning_violations for tally in tallies),
        "late": sum(tally.late for tally in tallies),
        "verdicts": {verdict.value: verdicts[verdict] for verdict in SubmissionVerdict if verdict in verdicts},
        "ignored_submissions": sum(world.ignored.values()),
        "accepted_per_hour": round(accepted / hours, 2),
        "possible_per_hour": round(best / hours, 2),
        "share_of_possible": round(accepted / best, 4),
    }


def passed(figures: dict[str, Any]) -> bool:
    """Whether the figures are what they should be."""
    faultless = figures["violations_of_known_cooldowns"] == 0 and figures["lost"] == 0
    return faultless and bool(figures["share_of_possible"] >= BOUND)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--validators", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    figures = run(arguments.hours, arguments.validators, arguments.seed)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<32}{value}")
    print(f"simulated in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    print(json.dumps(figures))
    return 0 if passed(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
