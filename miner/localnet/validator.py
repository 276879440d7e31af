"""A local subnet: a chain file, and a validator on the loopback interface that checks what miners send it."""

import asyncio
import base64
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
from miner.subnet.metagraph import Neuron, Snapshot, write_snapshot
from miner.subnet.protocol import Generate, ProtocolTask, PullTask, SubmitResults
from pipeline import FormatError, ReferenceViews, Similarity, Splats, invalid_reason, measure_similarity, spz

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# The score of a valid result of a task without a reference.
VALID_SCORE = 1.0
DEFAULT_TIMING = ValidatorTiming()
START_TIMEOUT = 20.0


@dataclass(frozen=True, eq=False)
class Delivery:
    """A result that was received: its file, its splats (None if it was refused) and the verdict or reason.

    `likeness` is the similarity to the object that the task's prompt shows; None if the task has no reference.
    """

    task_id: str
    transport: str
    data: bytes
    splats: Splats | None
    verdict: str
    likeness: Similarity | None = None

    @property
    def score(self) -> float:
        """The score from 0 to 1 that this validator gives."""
        if self.splats is None:
            return 0.0
        return VALID_SCORE if self.likeness is None else self.likeness.score


def free_port() -> int:
    """Return a port of the loopback interface that is not in use."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def make_wallet(folder: Path, name: str) -> bt.Wallet:
    """Create a wallet with a new, unencrypted hotkey below `folder`, for tests only."""
    wallet = bt.Wallet(name, "default", str(folder))
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return wallet


def write_chain_file(path: Path, neurons: Iterable[Neuron], netuid: int = 17, block: int = 1000) -> None:
    """Write a snapshot that `--subtensor.network file:PATH` reads."""
    write_snapshot(path, Snapshot(netuid, block, tuple(neurons)))


def check_result(task_id: str, transport: str, results: str, reference: ReferenceViews | None = None) -> Delivery:
    """Decode a result as the validation service does, from strict base64 and SPZ, then validate and compare it."""
    try:
        data = base64.b64decode(results, validate=True)
        splats = spz.from_bytes(data)
    except (ValueError, FormatError) as error:
        return Delivery(task_id, transport, b"", None, f"undecodable: {error}")
    if reason := invalid_reason(splats):
        return Delivery(task_id, transport, data, None, reason)
    similarity = None if reference is None else measure_similarity(splats, reference)
    return Delivery(task_id, transport, data, splats, "valid", similarity)


class LocalValidator:
    """A validator that assigns tasks on its axon, checks submissions as subnet 17's do, and pushes tasks to miners."""

    def __init__(
        self, wallet: bt.Wallet, port: int, is_registered: Callable[[str], bool],
        timing: ValidatorTiming = DEFAULT_TIMING, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Listen on `port` of the loopback interface; `now` returns this validator's unix time."""
        self.hotkey: str = wallet.hotkey.ss58_address
        self.port = port
        self.deliveries: list[Delivery] = []
        self._tasks: deque[ProtocolTask] = deque()
        self._references: dict[str, ReferenceViews] = {}
        self.rules = ValidatorRules(self.hotkey, self._next_task, is_registered, now, timing)
        self._dendrite = Dendrite(wallet.hotkey)
        self._axon = bt.Axon(wallet=wallet, port=port, ip=LOOPBACK, external_ip=LOOPBACK)
        self._axon.fast_config.host = LOOPBACK
        self._axon.attach(forward_fn=self.pull).attach(forward_fn=self.submit, blacklist_fn=self.refuse)
        if now is not time.time:
            self._send_date(now)

    def _send_date(self, now: Callable[[], float]) -> None:
        """Put this validator's time into the Date header, where the server would put the machine's."""
        self._axon.fast_config.date_header = False

        async def add_date(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            response = await call_next(request)
            response.headers["Date"] = formatdate(int(now()), usegmt=True)
            return response

        self._axon.app.middleware("http")(add_date)

    async def start(self) -> None:
        """Start to listen."""
        self._axon.start()
        async with asyncio.timeout(START_TIMEOUT):
            while not self._axon.fast_server.started:  # noqa: ASYNC110 - the SDK's thread offers no event
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop listening."""
        self._axon.stop()
        await self._dendrite.aclose_session()

    def add_tasks(self, tasks: Iterable[ProtocolTask]) -> None:
        """Queue tasks for miners that pull."""
        self._tasks.extend(tasks)

    def add_reference(self, task_id: str, reference: ReferenceViews) -> None:
        """Score the results of a task by their likeness to a reference, and not by validity alone."""
        self._references[task_id] = reference

    def _next_task(self) -> ProtocolTask | None:
        return self._tasks.popleft() if self._tasks else None

    async def push(self, miner: Neuron, request: Generate, task_id: str, timeout: float) -> Generate:  # noqa: ASYNC109
        """Push a task to a miner's axon, check the result, and return the answer."""
        answer = await self._dendrite.ask(miner, request, timeout)
        reference = self._references.get(task_id)
        self._deliver(await asyncio.to_thread(check_result, task_id, "push", answer.results, reference))
        return answer

    async def pull(self, synapse: PullTask) -> PullTask:
        """Answer with a new task, the one that is assigned already, or the end of the cooldown."""
        self.rules.pull(synapse.dendrite.hotkey, synapse)
        return synapse

    def refuse(self, synapse: SubmitResults) -> typing.Tuple[bool, str]:  # noqa: UP006 - the SDK compares it
        """Return whether a submission is refused, and why."""
        reason = self.rules.find_refusal(synapse.dendrite.hotkey)
        return reason is not None, reason or ""

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        """Check a result and return it with its score, which is None if validation itself fails."""
        reference = self._references.get(task.id)
        delivery = await asyncio.to_thread(check_result, task.id, "pull", results, reference)
        return delivery, delivery.score

    async def submit(self, synapse: SubmitResults) -> SubmitResults:
        """Check a submission; answer with feedback and the end of the cooldown."""
        await self.judge(synapse)
        return synapse

    async def judge(self, synapse: SubmitResults) -> SubmissionVerdict:
        """Put the answer to a submission into it, and return the verdict."""
        delivery = Delivery(synapse.task_id, "pull", b"", None, "")

        async def validate(task: ProtocolTask, results: str) -> float | None:
            nonlocal delivery
            delivery, score = await self.check(task, results)
            return score

        verdict = await self.rules.submit(synapse.dendrite.hotkey, synapse, validate)
        if verdict in (SubmissionVerdict.SKIPPED, SubmissionVerdict.BAD_SIGNATURE):
            self._deliver(replace(delivery, verdict=verdict.value))
        elif verdict in (SubmissionVerdict.ACCEPTED, SubmissionVerdict.REJECTED, SubmissionVerdict.NOT_VALIDATED):
            self._deliver(delivery)
        return verdict

    def _deliver(self, delivery: Delivery) -> None:
        log.info("Validator: task %s received by %s: %s", delivery.task_id, delivery.transport, delivery.verdict)
        self.deliveries.append(delivery)
