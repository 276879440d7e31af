"""Our axon: allowed validators push Generate requests and get the result in the answer."""

# The SDK compares annotations, so they must be real: no `from __future__ import annotations` here.

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable

import bittensor as bt

from miner.axon.authentication import Authenticator
from miner.axon.connections import guard
from miner.axon.middleware import AuthMiddleware, admitted_hotkey
from miner.config.settings import ServingSettings
from miner.errors import MinerError, OperatorError
from miner.ledger.outcomes import Outcome
from miner.ledger.recorder import TaskRecorder
from miner.policy.policy import PolicyDecision
from miner.cli.generate import shown
from miner.subnet.protocol import Generate
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Task
from pipeline import Cancelled, PipelineError

log = logging.getLogger(__name__)

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
WATCH_INTERVAL = 5.0


def check_port_free(ip: str, port: int) -> None:
    """Raises OperatorError if the address cannot be bound: the SDK's server would fail where nobody sees it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(ip, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OperatorError(
            f"the axon cannot listen on {ip}:{port} ({error.strerror}): stop what holds the port, or choose "
            "another address with --axon.ip and --axon.port"
        ) from None


class AxonServer:
    """Serves Generate; the policy is asked before any work and again before a result leaves."""

    def __init__(
        self,
        axon: bt.Axon,
        bind_ip: str,
        runner: TaskRunner,
        decide: Callable[[str], PolicyDecision],
        settings: ServingSettings,
        books: TaskRecorder | None = None,
    ) -> None:
        """`decide` maps a hotkey to a decision."""
        self.axon = axon
        self._books = books or TaskRecorder()
        self._runner = runner
        self._decide = decide
        axon.attach(forward_fn=self.forward, verify_fn=self.verify)
        admission = Authenticator(axon.wallet.hotkey.ss58_address, decide, settings)
        self._gate = AuthMiddleware(axon.app, admission, settings)
        axon.fast_config.app = self._gate
        # The SDK's server listens on all addresses whatever it is told.
        axon.fast_config.host = bind_ip
        self.strangers = guard(axon.fast_config, settings.max_connections, settings.header_timeout)

    @property
    def refusals(self) -> Counter[str]:
        """Requests that were refused, by HTTP status."""
        return self._gate.refusals.counters

    async def start(self) -> None:
        """Listen. Raises MinerError if the server does not come up."""
        self.axon.start()
        await self._until(lambda: self.axon.fast_server.started, START_TIMEOUT)
        if not self.axon.fast_server.started:
            raise MinerError("the axon's server did not start")

    async def stop(self) -> None:
        """Stop listening."""
        self.axon.stop()
        listeners = self.axon.fast_server.servers
        await self._until(lambda: not any(listener.is_serving() for listener in listeners), STOP_TIMEOUT)

    async def watch(self) -> None:
        """Raises MinerError once the server, which runs on the SDK's thread, does not listen any more."""
        while any(listener.is_serving() for listener in self.axon.fast_server.servers):  # noqa: ASYNC110 - see _until
            await asyncio.sleep(WATCH_INTERVAL)
        raise MinerError("the axon's server has ended by itself; only a new process can go on")

    @staticmethod
    async def _until(condition: Callable[[], bool], timeout: float) -> None:  # noqa: ASYNC109
        # The server runs on the SDK's thread and offers no event to wait for.
        deadline = asyncio.get_running_loop().time() + timeout
        while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def verify(self, synapse: Generate) -> None:
        """Refuse what did not come through the gate, which has verified the rest before reading any of it."""
        if synapse.dendrite.hotkey is None or synapse.dendrite.hotkey != admitted_hotkey.get():
            raise PermissionError("the request was not admitted")

    async def forward(self, synapse: Generate) -> Generate:
        """Generate and answer; without a result, `error` says why."""
        hotkey = str(admitted_hotkey.get())
        name = f"push-{synapse.dendrite.nonce:x}"
        entry = self._books.entry("push", hotkey, name, synapse.task_type)
        task = Task(
            id=name,
            type=synapse.task_type,
            prompt=synapse.prompt,
            priority=self._decide(hotkey).priority,
            seed=synapse.seed,
            data_format=synapse.data_format,
            entry=entry,
        )
        self._runner.counters["pushed"] += 1
        log.info("Task %s: pushed by validator %s, %s", task.id, shown(hotkey), task.type)
        try:
            result = await self._runner.run(task)
        except Cancelled as error:
            return failed(synapse, 503, str(error))
        except PipelineError as error:
            synapse.error = str(error)
            entry.answered(Outcome.UNKNOWN.value)
            return synapse
        decision = self._decide(hotkey)
        if not decision.allowed:
            log.warning("Task %s: result withheld, %s is no longer served: %s", task.id, shown(hotkey), decision.reason)
            return failed(synapse, 403, "this miner does not work for this hotkey any more")
        synapse.results = result.base64
        synapse.gaussians = len(result.asset.splats)
        synapse.seconds = result.asset.seconds
        # Whoever pushes says nothing more: what it made of the result is its own.
        entry.answered(Outcome.UNKNOWN.value)
        log.info("Task %s: answered to validator %s", task.id, shown(hotkey))
        return synapse


def failed(synapse: Generate, status: int, message: str) -> Generate:
    """The answer with an HTTP status other than 200."""
    synapse.error = message
    synapse.axon.status_code, synapse.axon.status_message = status, message
    return synapse
