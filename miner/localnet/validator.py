"""A subnet on this machine: a chain file and a validator that checks what it gets, for the demo and the tests."""

# The SDK compares annotations, so they must be real: no `from __future__ import annotations` here.

import asyncio
import base64
import json
import logging
import socket
import time
import typing
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

import bittensor as bt
from fastapi import Request, Response

from miner.localnet.validator_rules import SubmissionVerdict, ValidatorRules, ValidatorTiming
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ProtocolTask, PullTask, SubmitResults
from pipeline import FormatError, ReferenceViews, Similarity, Splats, measure_similarity, spz
from pipeline.splats.validation import invalid_reason

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# What is valid scores this where nothing is known of how the object looks.
VALID_SCORE = 1.0
DEFAULT_TIMING = ValidatorTiming()
START_TIMEOUT = 20.0


@dataclass(frozen=True, eq=False)
class Delivery:
    """A result that came in: the file, its splats, and why it was refused (splats None) if it was.

    likeness: to the object that the task's prompt shows, where that is known.
    """

    task_id: str
    transport: str
    data: bytes
    splats: Splats | None
    verdict: str
    likeness: Similarity | None = None

    @property
    def score(self) -> float:
        """0..1, as this validator judges it."""
        if self.splats is None:
            return 0.0
        return VALID_SCORE if self.likeness is None else self.likeness.score


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


def check_result(task_id: str, transport: str, results: str, reference: ReferenceViews | None = None) -> Delivery:
    """Decode a result as the validation service does: strict base64, SPZ, validity; then look at it."""
    try:
        data = base64.b64decode(results, validate=True)
        splats = spz.from_bytes(data)
    except (ValueError, FormatError) as error:
        return Delivery(task_id, transport, b"", None, f"undecodable: {error}")
    reason = invalid_reason(splats)
    if reason is not None:
        return Delivery(task_id, transport, data, None, reason)
    found = None if reference is None else measure_similarity(splats, reference)
    return Delivery(task_id, transport, data, splats, "valid", found)


class LocalValidator:
    """Hands out tasks on its axon, checks submissions as subnet 17's validators do, and pushes tasks to miners."""

    def __init__(
        self,
        wallet: bt.Wallet,
        port: int,
        is_registered: Callable[[str], bool],
        timing: ValidatorTiming = DEFAULT_TIMING,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` is its unix time."""
        self.hotkey: str = wallet.hotkey.ss58_address
        self.port = port
        self.deliveries: list[Delivery] = []
        self._tasks: deque[ProtocolTask] = deque()
        self._references: dict[str, ReferenceViews] = {}
        self.model = ValidatorRules(self.hotkey, self._next_task, is_registered, now, timing)
        self._dendrite = Dendrite(wallet.hotkey)
        self._axon = bt.Axon(wallet=wallet, port=port, ip=LOOPBACK, external_ip=LOOPBACK)
        self._axon.fast_config.host = LOOPBACK
        self._axon.attach(forward_fn=self.pull).attach(forward_fn=self.submit, blacklist_fn=self.refuse)
        if now is not time.time:
            self._tell_time(now)

    def _tell_time(self, now: Callable[[], float]) -> None:
        """Put this validator's time into the Date header, where the server would put the machine's."""
        self._axon.fast_config.date_header = False

        async def add_date(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            response = await call_next(request)
            response.headers["Date"] = formatdate(int(now()), usegmt=True)
            return response

        self._axon.app.middleware("http")(add_date)

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

    def add_reference(self, task_id: str, reference: ReferenceViews) -> None:
        """Judge the task's results by how much they look like this, and not by validity alone."""
        self._references[task_id] = reference

    def _next_task(self) -> ProtocolTask | None:
        return self._tasks.popleft() if self._tasks else None

    async def push(self, miner: Neuron, request: Generate, task_id: str, timeout: float) -> Generate:  # noqa: ASYNC109
        """Send a task to a miner's axon and check the answer."""
        answer = await self._dendrite.ask(miner, request, timeout)
        self._deliver(
            await asyncio.to_thread(check_result, task_id, "push", answer.results, self._references.get(task_id))
        )
        return answer

    async def pull(self, synapse: PullTask) -> PullTask:
        """Assign a task, hand the assigned one out again, or say how long the cooldown lasts."""
        self.model.pull(synapse.dendrite.hotkey, synapse)
        return synapse

    def refuse(self, synapse: SubmitResults) -> typing.Tuple[bool, str]:  # noqa: UP006 - the SDK compares it
        """Whether a submission is turned away, and why."""
        reason = self.model.refusal(synapse.dendrite.hotkey)
        return reason is not None, reason or ""

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        """Decode a result and score it; the score is None if validation itself fails."""
        reference = self._references.get(task.id)
        delivery = await asyncio.to_thread(check_result, task.id, "pull", results, reference)
        return delivery, delivery.score

    async def submit(self, synapse: SubmitResults) -> SubmitResults:
        """Check signature, task id, encoding and validity; answer with feedback and the cooldown."""
        delivery = Delivery(synapse.task_id, "pull", b"", None, "")

        async def validate(task: ProtocolTask, results: str) -> float | None:
            nonlocal delivery
            delivery, score = await self.check(task, results)
            return score

        verdict = await self.model.submit(synapse.dendrite.hotkey, synapse, validate)
        if verdict in (SubmissionVerdict.SKIPPED, SubmissionVerdict.BAD_SIGNATURE):
            self._deliver(replace(delivery, verdict=verdict.value))
        elif verdict in (SubmissionVerdict.ACCEPTED, SubmissionVerdict.REJECTED, SubmissionVerdict.NOT_VALIDATED):
            self._deliver(delivery)
        return synapse

    def _deliver(self, delivery: Delivery) -> None:
        log.info("Validator: task %s came by %s: %s", delivery.task_id, delivery.transport, delivery.verdict)
        self.deliveries.append(delivery)
