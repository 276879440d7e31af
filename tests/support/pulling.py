"""A miner's pulling side and a validator on loopback, for the tests of pulling."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bittensor as bt

from miner.config.phase import Phase
from miner.config.settings import PullingSettings
from miner.localnet.validator import LOOPBACK, Delivery, LocalValidator, free_port
from miner.localnet.validator_rules import MinerState, ValidatorRules
from miner.policy.policy import PolicyDecision
from miner.pull.puller import Puller
from miner.pull.session import SessionContext
from miner.pull.store import CooldownStore
from miner.runtime.supervisor import Supervisor
from miner.subnet.dendrite import AnySynapse, Dendrite, Reply, Transport
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.protocol import ImageTask, ProtocolTask
from tests.support.factories import ManualClock
from tests.support.miner_parts import MinerParts
from tests.support.waiting import TIMEOUT


class ScriptedValidator(LocalValidator):
    """Keeps the subnet's rules; the test says what its validation finds."""

    score: float | None = 0.9
    checking: Callable[[], object] = staticmethod(lambda: None)

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        score = self.score
        await asyncio.to_thread(self.checking)
        delivery, _ = await super().check(task, results)
        return delivery, score


class PullingMiner(MinerParts):
    """A miner's parts with the pulling side, a clock that the test moves, and the validator that is pulled from."""

    def __init__(self, folder: Path, phase: Phase, wallets: dict[str, bt.Wallet], image: str) -> None:
        super().__init__(folder, phase)
        self.time = ManualClock()
        self.skew = 0.0
        self.registered = True
        self.refused = ""
        self.submit_timeout = TIMEOUT
        self.connect: Callable[[], Transport] | None = None
        self.keypair = wallets["miner"].hotkey
        self.validator_wallet = wallets["validator"]
        self.validator = ScriptedValidator(
            wallets["validator"], free_port(), lambda _: self.registered, now=lambda: self.time.wall() + self.skew
        )
        self.neuron = Neuron(
            uid=0, hotkey=self.validator.hotkey, coldkey="c", stake=5000, ip=LOOPBACK, port=self.validator.port
        )
        self.cooldowns = CooldownStore(folder / "cooldowns.json")
        self.supervisor = Supervisor(self.time.clock)
        self.puller = self.start_again()
        self._image = image

    def start_again(self) -> Puller:
        """Replace the pulling side by one that knows only what is on the disk."""
        self.restart(self.selector)
        settings = PullingSettings(submit_timeout=self.submit_timeout)
        context = SessionContext(self.keypair, self.runner, self.decide, settings, self.time.clock, self.recorder)
        self.puller = Puller(context, self.supervisor, self.cooldowns, self.connect)
        return self.puller

    def decide(self, hotkey: str) -> PolicyDecision:
        return PolicyDecision(not self.refused, self.refused, 5000.0)

    def update(self) -> None:
        """Show the puller the subnet as it is now."""
        own = Neuron(uid=1, hotkey=self.keypair.ss58_address, coldkey="c", ip=LOOPBACK, port=1)
        self.puller.update(Snapshot(17, 1, (self.neuron, own)))

    def image_task(self, task_id: str) -> ImageTask:
        return ImageTask(id=task_id, prompt=self._image)

    def give(self, *ids: str) -> None:
        """Let the validator hand out these tasks."""
        self.validator.add_tasks(map(self.image_task, ids))

    @property
    def rules(self) -> ValidatorRules:
        """The validator's memory of its miners."""
        return self.validator.rules

    @property
    def state(self) -> MinerState:
        """What the validator knows of us."""
        return self.rules.miners[self.keypair.ss58_address]

    @property
    def violations(self) -> int:
        return self.state.violations

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(delivery.task_id, delivery.verdict) for delivery in self.validator.deliveries]


class FaultyDendrite(Dendrite):
    """A client whose next exchanges raise an error, or go to another port; None leaves one as it is."""

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
