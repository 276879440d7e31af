"""The axon's server: allowed validators push Generate requests and get the result in the answer."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bittensor as bt

from miner.axon.authentication import Authenticator
from miner.axon.connections import limit_connections
from miner.axon.middleware import AuthMiddleware, admitted_hotkey
from miner.config import ServingSettings
from miner.config.run_settings import RunOptions
from miner.errors import MinerError, OperatorError
from miner.ledger import Outcome, TaskRecord, TaskRecorder
from miner.policy import PolicyDecision
from miner.runtime import sanitise_name
from miner.subnet.encoding import encode_result
from miner.subnet.protocol import Generate
from miner.tasks import Result, Task, TaskRunner
from miner.words import plural
from pipeline import Cancelled, PipelineError

log = logging.getLogger(__name__)

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
POLL_INTERVAL = 0.02
WATCH_INTERVAL = 5.0


def check_port_free(ip: str, port: int) -> None:
    """Raise OperatorError if the address cannot be bound, since the SDK's server would not report that."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(ip, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OperatorError(
            f"the axon cannot listen on {ip}:{port} ({error.strerror}): stop the process that uses the port, or choose "
            "another address with --axon.ip and --axon.port"
        ) from None


def make_axon(wallet: bt.Wallet, options: RunOptions, external_ip: str | None) -> bt.Axon:
    """Return an axon that listens on the configured address; `external_ip` None stands for that address."""
    return bt.Axon(
        wallet=wallet,
        port=options.axon_port,
        ip=options.axon_ip,
        external_ip=external_ip or options.axon_ip,
        external_port=options.axon_external_port or options.axon_port,
    )


class AxonServer:
    """A server of Generate requests, which asks the policy before any work and again before a result is sent."""

    def __init__(
        self,
        axon: bt.Axon,
        runner: TaskRunner,
        decide: Callable[[str], PolicyDecision],
        settings: ServingSettings,
        recorder: TaskRecorder,
        nonces: Path | None = None,
    ) -> None:
        """Serve on the address of `axon`, which must not have started.

        `decide` is the policy, `nonces` the file that keeps used nonces over a restart.
        """
        self.axon = axon
        self._runner = runner
        self._decide = decide
        self._recorder = recorder
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        axon.attach(forward_fn=self.forward, verify_fn=self.verify)
        authenticator = Authenticator(axon.wallet.hotkey.ss58_address, decide, settings, nonces=nonces)
        self._middleware = AuthMiddleware(axon.app, authenticator, settings)
        axon.fast_config.app = self._middleware
        # The SDK's server would listen on all addresses.
        axon.fast_config.host = axon.ip
        self.unauthenticated = limit_connections(axon.fast_config, settings)

    @property
    def refusals(self) -> Counter[str]:
        """The number of refused requests by HTTP status, a copy, since the server's thread counts on."""
        return Counter(self._middleware.refusals.counters)

    async def start(self) -> None:
        """Listen, and work on requests on this event loop. Raises MinerError if the server does not start."""
        self._loop = asyncio.get_running_loop()
        self.axon.start()
        await self._wait_until(lambda: self.axon.fast_server.started, START_TIMEOUT)
        if not self.axon.fast_server.started:
            raise MinerError("the axon's server did not start")
        log.info("Axon listens on %s:%d", self.axon.ip, self.axon.port)

    async def stop(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109
        """Stop listening; requests in progress get `timeout` seconds to be answered, and their answers to be taken."""
        self._is_stopping = True
        self.axon.stop()
        await self._wait_until(lambda: not self._is_listening, STOP_TIMEOUT)
        log.info("Axon closed")
        if waiting := self._middleware.authenticator.in_progress:
            log.info("Finishing %s in hand, within %.0f s", plural(waiting, "pushed task"), timeout)
            # The server closes a connection once the client has its answer.
            await self._wait_until(lambda: not self.axon.fast_server.server_state.connections, timeout)
        if unfinished := self._middleware.authenticator.in_progress:
            log.warning("%s not answered when we stopped", plural(unfinished, "pushed task"))

    async def watch(self) -> None:
        """Raise MinerError once the server no longer listens; it runs on a thread of the SDK and may end unnoticed.

        Return if it was stopped.
        """
        while self._is_listening:  # noqa: ASYNC110 - see _wait_until
            await asyncio.sleep(WATCH_INTERVAL)
        if not self._is_stopping:
            raise MinerError("the axon's server has ended by itself; only a new process can go on")

    @property
    def _is_listening(self) -> bool:
        # The server has no listeners before it has started, and none if it could not.
        return any(listener.is_serving() for listener in getattr(self.axon.fast_server, "servers", ()))

    @staticmethod
    async def _wait_until(condition: Callable[[], bool], timeout: float) -> None:  # noqa: ASYNC109
        # The server runs on a thread of the SDK, which offers no event to wait for.
        deadline = asyncio.get_running_loop().time() + timeout
        while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL)

    def verify(self, synapse: Generate) -> None:
        """Raise PermissionError unless the middleware has admitted the request, and with it verified it."""
        if synapse.dendrite.hotkey is None or synapse.dendrite.hotkey != admitted_hotkey.get():
            raise PermissionError("the request was not admitted")

    async def forward(self, synapse: Generate) -> Generate:
        """Generate and return the answer; without a result, `error` is the reason.

        The SDK calls it on its server's own thread and event loop, but what works on tasks belongs to the miner's.
        """
        assert self._loop is not None, "there are no requests before the start"
        work = self._answer(synapse, str(admitted_hotkey.get()))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _answer(self, synapse: Generate, hotkey: str) -> Generate:
        task_id = f"push-{synapse.dendrite.nonce:x}"
        record = self._recorder.open("push", hotkey, task_id, synapse.task_type)
        self._runner.counters["pushed"] += 1
        log.info("Task %s: pushed by validator %s, %s", task_id, sanitise_name(hotkey), synapse.task_type)
        try:
            result = await self._generate(synapse, hotkey, task_id, record)
        except Cancelled as error:
            return set_failure(synapse, 503, str(error))
        except PipelineError as error:
            synapse.error = str(error)
            record.answered(Outcome.UNKNOWN)
            return synapse
        decision = self._decide(hotkey)
        if not decision.allowed:
            caller = sanitise_name(hotkey)
            log.warning("Task %s: result withheld, %s is no longer served: %s", task_id, caller, decision.reason)
            return set_failure(synapse, 403, "this miner does not work for this hotkey any more")
        synapse.results = await asyncio.to_thread(encode_result, result.data)
        synapse.gaussians = result.asset.gaussians
        synapse.seconds = result.asset.seconds
        # A validator that pushes does not report its score.
        record.answered(Outcome.UNKNOWN)
        log.info("Task %s: answered to validator %s", task_id, sanitise_name(hotkey))
        return synapse

    async def _generate(self, synapse: Generate, hotkey: str, task_id: str, record: TaskRecord) -> Result:
        try:
            prompt = await self._runner.decoder.decode(synapse.task_type, synapse.prompt, hotkey)
        except Exception as error:
            self._runner.decline(task_id, record, error)
            if isinstance(error, PipelineError):
                raise
            raise PipelineError("the prompt could not be decoded") from error
        priority = self._decide(hotkey).priority
        task = Task(task_id, prompt, priority, synapse.seed, synapse.data_format, record=record)
        return await self._runner.run(task)


def set_failure(synapse: Generate, status: int, message: str) -> Generate:
    """Turn the answer into one with an HTTP status other than 200, and return it."""
    synapse.error = message
    synapse.axon.status_code, synapse.axon.status_message = status, message
    return synapse
