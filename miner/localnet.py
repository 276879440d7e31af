"""A subnet on this machine: a chain file and a validator that checks what it gets, for the demo and the tests."""

# The SDK compares annotations, so they must be real: no `from __future__ import annotations` here.

import asyncio
import base64
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import bittensor as bt

from miner.chain import Neuron
from miner.dendrite import Dendrite
from miner.protocol import Feedback, Generate, ProtocolTask, PullTask, SubmitResults, submission_message
from pipeline import FormatError, Splats, spz, validity

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# This validator does not judge quality: what is valid scores 1.
VALID_SCORE = 1.0
UNREGISTERED_COOLDOWN = 3600
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Timing:
    """A validator's rules, in seconds; the defaults are the subnet's."""

    throttle_period: int = 30
    task_cooldown: int = 300
    cooldown_penalty: int = 600


@dataclass(frozen=True, eq=False)
class Delivery:
    """A result that came in: the file, its splats, and why it was refused (splats None) if it was."""

    task_id: str
    transport: str
    data: bytes
    splats: Splats | None
    verdict: str


@dataclass
class _MinerState:
    """What the validator knows of one miner."""

    task: ProtocolTask | None = None
    assigned_at: float = 0.0
    cooldown_until: int = 0
    violations: int = 0
    scores: list[float] = field(default_factory=list)


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def make_wallet(folder: Path, name: str) -> bt.Wallet:
    """A wallet with a fresh, unencrypted hotkey below `folder`; worth nothing."""
    wallet = bt.Wallet(name, "default", str(folder))
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return wallet


def write_chain_file(path: Path, neurons: Iterable[Neuron], netuid: int = 17, block: int = 1000) -> None:
    """Write a snapshot that `--subtensor.network file:PATH` reads, whole or not at all."""
    entries = [neuron.model_dump(exclude={"uid"}) for neuron in neurons]
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps({"netuid": netuid, "block": block, "neurons": entries}, indent=1))
    partial.replace(path)


def check_result(task_id: str, transport: str, results: str) -> Delivery:
    """Decode a result as the validation service does: strict base64, SPZ, validity."""
    try:
        data = base64.b64decode(results, validate=True)
        splats = spz.from_bytes(data)
    except (ValueError, FormatError) as error:
        return Delivery(task_id, transport, b"", None, f"undecodable: {error}")
    reason = validity(splats)
    return Delivery(task_id, transport, data, splats if reason is None else None, reason or "valid")


class LocalValidator:
    """Hands out tasks on its axon, checks submissions as subnet 17's validators do, and pushes tasks to miners."""

    def __init__(
        self,
        wallet: bt.Wallet,
        port: int,
        is_registered: Callable[[str], bool],
        timing: Timing = Timing(),
    ) -> None:
        self.hotkey: str = wallet.hotkey.ss58_address
        self.port = port
        self.deliveries: list[Delivery] = []
        self._timing = timing
        self._is_registered = is_registered
        self._tasks: deque[ProtocolTask] = deque()
        self._miners: dict[str, _MinerState] = {}
        self._dendrite = Dendrite(wallet.hotkey)
        self._axon = bt.Axon(wallet=wallet, port=port, ip=LOOPBACK, external_ip=LOOPBACK)
        self._axon.fast_config.host = LOOPBACK
        self._axon.attach(forward_fn=self.pull).attach(forward_fn=self.submit)

    async def start(self) -> None:
        """Listen."""
        self._axon.start()
        async with asyncio.timeout(START_TIMEOUT):
            while not self._axon.fast_server.started:  # noqa: ASYNC110 - the SDK's thread offers no event
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop listening."""
        self._axon.stop()
        await self._dendrite.aclose_session()

    def add_tasks(self, tasks: Iterable[ProtocolTask]) -> None:
        """Queue tasks for whoever pulls."""
        self._tasks.extend(tasks)

    async def push(self, miner: Neuron, request: Generate, task_id: str, timeout: float) -> Generate:  # noqa: ASYNC109
        """Send a task to a miner's axon and check the answer."""
        answer = await self._dendrite.ask(miner, request, timeout)
        self._deliver(check_result(task_id, "push", answer.results))
        return answer

    async def pull(self, synapse: PullTask) -> PullTask:
        """Assign a task, hand the assigned one out again, or say how long the cooldown lasts."""
        hotkey, now = synapse.dendrite.hotkey, time.time()
        synapse.throttle_period = self._timing.throttle_period
        if not self._is_registered(hotkey):
            synapse.cooldown_until = int(now) + UNREGISTERED_COOLDOWN
            return synapse
        miner = self._miners.setdefault(hotkey, _MinerState())
        if miner.task is None and miner.cooldown_until > now:
            miner.violations += 1
            synapse.cooldown_until, synapse.cooldown_violations = miner.cooldown_until, miner.violations
            return synapse
        if miner.task is None and self._tasks:
            miner.task, miner.assigned_at = self._tasks.popleft(), now
        synapse.task = miner.task
        return synapse

    async def submit(self, synapse: SubmitResults) -> SubmitResults:
        """Check signature, task id, encoding and validity; answer with feedback and the cooldown."""
        hotkey = synapse.dendrite.hotkey
        miner = self._miners.get(hotkey, _MinerState())
        task = miner.task
        if not self._is_registered(hotkey) or task is None:
            synapse.axon.status_code, synapse.axon.status_message = 403, "No task is assigned"
            return synapse
        message = submission_message(synapse.submit_time, task.prompt, self.hotkey, hotkey)
        signature = base64.b64decode(synapse.signature, validate=True)
        synapse.feedback = Feedback()
        if not bt.Keypair(ss58_address=hotkey).verify(message, signature):
            self._close(miner, penalty=True)
            self._deliver(Delivery(task.id, "pull", b"", None, "wrong signature"))
        elif synapse.task_id != task.id:
            synapse.cooldown_until = miner.cooldown_until
            return synapse
        elif synapse.results == "":
            self._close(miner, penalty=False)
            self._deliver(Delivery(task.id, "pull", b"", None, "skipped"))
        else:
            delivery = await asyncio.to_thread(check_result, task.id, "pull", synapse.results)
            self._close(miner, penalty=delivery.splats is None)
            if delivery.splats is not None:
                miner.scores.append(VALID_SCORE)
                synapse.feedback.task_fidelity_score = VALID_SCORE
            self._deliver(delivery)
        synapse.feedback.average_fidelity_score = sum(miner.scores) / max(len(miner.scores), 1)
        synapse.feedback.generations_within_the_window = len(miner.scores)
        synapse.cooldown_until = miner.cooldown_until
        synapse.results = synapse.signature = ""
        return synapse

    def _close(self, miner: _MinerState, penalty: bool) -> None:
        timing, now = self._timing, time.time()
        cooldown = timing.task_cooldown + (timing.cooldown_penalty if penalty else 0)
        miner.cooldown_until = int(max(now + cooldown - timing.throttle_period, miner.assigned_at + cooldown))
        miner.task = None
        miner.violations = max(miner.violations - 1, 0)

    def _deliver(self, delivery: Delivery) -> None:
        log.info("Validator: task %s came by %s: %s", delivery.task_id, delivery.transport, delivery.verdict)
        self.deliveries.append(delivery)
