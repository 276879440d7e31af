"""Our axon: allowed validators push Generate requests and get the result in the answer."""

# The SDK compares annotations, so they must be real: no `from __future__ import annotations` here.

import asyncio
import logging
import socket
import typing
from collections.abc import Callable

import bittensor as bt

from miner.errors import MinerError, OperatorError
from miner.logs import shown
from miner.policy import Decision
from miner.protocol import Generate
from miner.tasks import Task, TaskRunner
from pipeline import PipelineError

log = logging.getLogger(__name__)

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0


def check_port_free(ip: str, port: int) -> None:
    """Raises OperatorError if the address cannot be bound: the SDK's server would fail where nobody sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise OperatorError(
                f"the axon cannot listen on {ip}:{port} ({error.strerror}): stop what holds the port, or choose "
                "another with --axon.port"
            ) from None


class AxonServer:
    """Serves Generate; the policy is asked before any work and again before a result leaves."""

    def __init__(self, axon: bt.Axon, bind_ip: str, runner: TaskRunner, decide: Callable[[str], Decision], limit: int):
        """`decide` maps a hotkey to a decision; at most `limit` requests wait for the generator."""
        self.axon = axon
        self._runner = runner
        self._decide = decide
        self._limit = limit
        # The SDK's server listens on all addresses whatever it is told.
        axon.fast_config.host = bind_ip
        axon.attach(forward_fn=self.forward, blacklist_fn=self.blacklist)

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

    @staticmethod
    async def _until(condition: Callable[[], bool], timeout: float) -> None:  # noqa: ASYNC109
        # The server runs on the SDK's thread and offers no event to wait for.
        deadline = asyncio.get_running_loop().time() + timeout
        while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def blacklist(self, synapse: Generate) -> typing.Tuple[bool, str]:  # noqa: UP006 - the SDK compares it
        """Whether to refuse the sender, and why; the signature is verified after this."""
        hotkey = synapse.dendrite.hotkey if synapse.dendrite else None
        if not hotkey:
            return True, "no hotkey"
        decision = self._decide(hotkey)
        if not decision.allowed:
            self._runner.counters["refused"] += 1
            log.warning("Refused a request of %s: %s", shown(hotkey), decision.reason)
        return not decision.allowed, decision.reason

    async def forward(self, synapse: Generate) -> Generate:
        """Generate and answer; without a result, `error` says why."""
        hotkey = str(synapse.dendrite.hotkey) if synapse.dendrite else ""
        task = Task(
            id=f"push-{(synapse.dendrite and synapse.dendrite.nonce) or 0:x}",
            type=synapse.task_type,
            prompt=synapse.prompt,
            priority=self._decide(hotkey).priority,
            seed=synapse.seed,
            data_format=synapse.data_format,
        )
        self._runner.counters["pushed"] += 1
        log.info("Task %s: pushed by validator %s, %s", task.id, shown(hotkey), task.type)
        if self._runner.waiting >= self._limit:
            log.warning("Task %s: not taken, %d requests are waiting", task.id, self._runner.waiting)
            synapse.error = "busy: too many requests are waiting, come back later"
            return synapse
        try:
            result = await self._runner.run(task)
        except PipelineError as error:
            synapse.error = str(error)
            return synapse
        decision = self._decide(hotkey)
        if not decision.allowed:
            log.warning("Task %s: result withheld, %s is no longer served: %s", task.id, shown(hotkey), decision.reason)
            synapse.error = decision.reason
            return synapse
        synapse.results = result.base64
        synapse.gaussians = len(result.asset.splats)
        synapse.seconds = result.asset.seconds
        log.info("Task %s: answered to validator %s", task.id, shown(hotkey))
        return synapse
