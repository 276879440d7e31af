"""A miner's pulling side and a validator on loopback, for the tests of pulling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import bittensor as bt

from miner.config.phase import Phase
from miner.config.settings import PullingSettings, SpzSettings
from miner.gpu.scheduler import Scheduler
from miner.ledger.reader import LedgerReader, TaskRow, read_open_tasks
from miner.ledger.recorder import TaskRecorder
from miner.ledger.writer import LedgerWriter
from miner.localnet.validator import LOOPBACK, Delivery, LocalValidator, free_port
from miner.localnet.validator_rules import MinerState
from miner.policy.policy import PolicyDecision
from miner.pull.puller import Puller
from miner.pull.session import SessionContext
from miner.pull.store import CooldownStore
from miner.runtime.supervisor import Supervisor
from miner.subnet.dendrite import AnySynapse, Dendrite, Reply, Transport
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.protocol import ImageTask, ProtocolTask
from miner.tasks.runner import TaskRunner
from pipeline import Asset, OnStep, Request, Splats
from tests.support.factories import ManualClock, instant_generate, make_asset, selector_with

TIMEOUT = 20.0


class ScriptedValidator(LocalValidator):
    """Keeps the subnet's rules; the test says what its validation finds."""

    score: float | None = 0.9
    checking: Callable[[], object] = staticmethod(lambda: None)  # type: ignore[assignment]

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        score = self.score
        await asyncio.to_thread(self.checking)
        delivery, _ = await super().check(task, results)
        return delivery, score


class Bench:
    """A miner's pulling side without a process around it, and a validator."""

    def __init__(
        self, wallets: dict[str, bt.Wallet], phase: Phase, container: SpzSettings, image: str, folder: Path
    ) -> None:
        self.time = ManualClock()
        self.skew = 0.0
        self.registered = True
        self.image = image
        self.keypair = wallets["miner"].hotkey
        self.validator_wallet = wallets["validator"]
        self.validator = ScriptedValidator(
            wallets["validator"], free_port(), lambda _: self.registered, now=lambda: self.time.wall() + self.skew
        )
        self.neuron = Neuron(
            uid=0, hotkey=self.validator.hotkey, coldkey="c", stake=5000, ip=LOOPBACK, port=self.validator.port
        )
        self.refused = ""
        self.generate: Callable[[Request, OnStep], Asset] = instant_generate
        self.scheduler = Scheduler()
        self.score: Callable[[Splats], float] = lambda splats: 0.5
        self.selector = selector_with(phase, self.make)
        self.runner = TaskRunner(self.scheduler, self.selector, container)
        self.file = CooldownStore(folder / "cooldowns.json")
        self.ledger = LedgerWriter(folder / "ledger.sqlite")
        self.connect: Callable[[], Transport] | None = None
        self.submit_timeout = TIMEOUT
        self.supervisor = Supervisor(self.time.clock)
        self.puller = self.start_again()

    def make(self, request: Request, on_step: OnStep) -> Asset:
        return self.generate(request, on_step)

    def run_phase(self, phase: Phase) -> None:
        """From the next task on, this phase, and a scorer with it."""
        other = selector_with(phase, self.make, lambda splats: self.score(splats))
        self.selector.swap(other.choice, other.models)

    def start_again(self) -> Puller:
        """A miner's pulling side that knows what is on the disk."""
        settings = PullingSettings(submit_timeout=self.submit_timeout)
        recorder = TaskRecorder(self.ledger, "1.0", lambda _: self.neuron.uid, read_open_tasks(self.ledger.path))
        context = SessionContext(self.keypair, self.runner, self.decide, settings, self.time.clock, recorder)
        self.puller = Puller(context, self.supervisor, self.file, self.connect)
        return self.puller

    def decide(self, hotkey: str) -> PolicyDecision:
        return PolicyDecision(not self.refused, self.refused, 5000.0)

    def update(self) -> None:
        own = Neuron(uid=1, hotkey=self.keypair.ss58_address, coldkey="c", ip=LOOPBACK, port=1)
        self.puller.update(Snapshot(17, 1, (self.neuron, own)))

    def give(self, *ids: str) -> None:
        self.validator.add_tasks(ImageTask(id=name, prompt=self.image) for name in ids)

    @property
    def state(self) -> MinerState:
        """What the validator knows of us."""
        return self.validator.rules.miners[self.keypair.ss58_address]

    def rows(self) -> list[TaskRow]:
        """What the ledger knows."""
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return reader.tasks()

    @property
    def violations(self) -> int:
        return self.state.violations

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(delivery.task_id, delivery.verdict) for delivery in self.validator.deliveries]


def cooling(until: int) -> MinerState:
    return MinerState(cooldown_until=until)


async def make_bench(
    wallets: dict[str, bt.Wallet], phase: Phase, container: SpzSettings, image_base64: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    """The fixture `bench` of a module: `bench = pytest_asyncio.fixture(make_bench)`."""
    bench = Bench(wallets, phase, container, image_base64, tmp_path)
    await bench.validator.start()
    yield bench
    await bench.puller.stop()
    await bench.validator.stop()
    assert bench.scheduler.stop(TIMEOUT)
    assert bench.ledger.close(TIMEOUT)


class Held:
    """A generation that, once begun, lasts until it is released."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self.release = threading.Event()

    def __call__(self, request: Request, on_step: OnStep) -> Asset:
        self._begun.set()
        self.release.wait(TIMEOUT)
        return make_asset(request)

    async def begins(self) -> None:
        """Wait until it has."""
        assert await asyncio.to_thread(self._begun.wait, TIMEOUT)


class Faulty(Dendrite):
    """Does to chosen exchanges what the test wants."""

    def __init__(self, keypair: bt.Keypair, faults: list[Exception | int | None], date: float | None = None) -> None:
        super().__init__(keypair)
        self.faults = faults
        self.date = date

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        port = neuron.port if fault is None else fault
        reply = await super().exchange(neuron.model_copy(update={"port": port}), synapse, timeout)
        return reply if self.date is None else replace(reply, date=self.date)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the validator's thread decides
            await asyncio.sleep(0.01)
