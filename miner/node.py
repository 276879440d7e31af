"""The running miner: start, work, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

import bittensor as bt
from bittensor.utils import networking

from miner.chain import Chain, Snapshot, open_chain
from miner.errors import ChainError, Deregistered, ExitCode, MinerError, OperatorError
from miner.policy import Decision, decide
from miner.pulling import Puller
from miner.scheduler import Scheduler
from miner.serving import AxonServer, check_port_free
from miner.settings import Settings
from miner.tasks import TaskRunner
from miner.threads import Returned, run_in_daemon
from pipeline import BackgroundModelError, CheckpointError, Generator, PipelineError, choose

log = logging.getLogger(__name__)

# A process manager waits 30 s for us; the current generation gets most of it.
DRAIN_TIMEOUT = 20.0


def load_wallet(settings: Settings) -> bt.Wallet:
    """The wallet, its hotkey readable. Raises OperatorError naming the file."""
    wallet = bt.Wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
    try:
        _ = wallet.hotkey
    except Exception as error:  # the wallet library raises its own types for a missing, damaged or locked file
        raise OperatorError(
            f"the hotkey {settings.wallet_path}/{settings.wallet_name}/hotkeys/{settings.wallet_hotkey} cannot be "
            f"read ({error}): check --wallet.name, --wallet.hotkey and --wallet.path, or make it with "
            f"`btcli wallet new-hotkey`"
        ) from None
    return wallet


def load_generator(settings: Settings) -> Generator:
    """The phase's generator, warmed up. Raises OperatorError if weights or devices are missing."""
    phase = settings.phase
    try:
        compute = choose(settings.miner.device, settings.miner.precision)
        log.info("Networks on %s", compute.reason)
        generator = Generator.load(
            phase.image.checkpoint,
            compute,
            background_model=phase.background.model,
            background_provider=phase.background.provider,
        )
    except (CheckpointError, BackgroundModelError) as error:
        raise OperatorError(f"phase {settings.phase_name} cannot be loaded: {error}") from error
    except PipelineError as error:
        raise OperatorError(str(error)) from error
    log.info("Background removal with %s on %s", phase.background.model, generator.background_provider)
    seconds = generator.warm_up(phase.sparse_structure_sampler_params.params(), phase.slat_sampler_params.params())
    log.info("Loaded %s and warmed up in %.1f s", phase.image.checkpoint, seconds)
    return generator


class Node:
    """One miner; `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._snapshot: Snapshot | None = None

    def decide(self, hotkey: str) -> Decision:
        """The policy on a hotkey with the present snapshot."""
        return decide(self.snapshot, self._settings.rules, hotkey)

    @property
    def snapshot(self) -> Snapshot:
        """The subnet as last seen; there is one from registration on."""
        assert self._snapshot is not None
        return self._snapshot

    async def run(self) -> ExitCode:
        """Work until a signal or a reason to end. Raises MinerError with the exit code it stands for."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        settings = self._settings
        wallet = load_wallet(settings)
        chain = open_chain(settings.network, settings.netuid)
        self._snapshot = await self._unless_stopped(lambda: self._register(chain, wallet))
        if self._snapshot is None:
            return ExitCode.CLEAN
        if settings.miner.serving.enabled:
            check_port_free(settings.axon_ip, settings.axon_port)
        generator = await self._unless_stopped(lambda: load_generator(settings))
        if generator is None:
            return ExitCode.CLEAN
        scheduler = Scheduler(generator.generate)
        runner = TaskRunner(scheduler, settings.phase, settings.miner.spz)
        scheduler.start()
        try:
            await self._work(chain, wallet, runner)
        finally:
            ended = await asyncio.to_thread(scheduler.stop, DRAIN_TIMEOUT)
            if not ended:
                log.warning("The current generation did not stop within %.0f s and is abandoned", DRAIN_TIMEOUT)
            totals = ", ".join(f"{name} {count}" for name, count in sorted(runner.counters.items()))
            log.info("Stopped. Totals: %s", totals or "nothing done")
        return ExitCode.CLEAN

    async def _work(self, chain: Chain, wallet: bt.Wallet, runner: TaskRunner) -> None:
        settings = self._settings
        puller = Puller(wallet.hotkey, runner, self.decide, settings.miner.pulling)
        server = await self._serve(chain, wallet, runner) if settings.miner.serving.enabled else None
        try:
            log.info("Ready: phase %s, hotkey %s", settings.phase_name, wallet.hotkey.ss58_address)
            while not self._stop.is_set():
                if settings.miner.pulling.enabled:
                    puller.update(self.snapshot)
                await self._pause(settings.miner.chain.sync_interval)
                if not self._stop.is_set():
                    await self._sync(chain, wallet.hotkey.ss58_address)
        finally:
            await puller.stop()
            if server is not None:
                await server.stop()
                log.info("Axon closed")

    def _register(self, chain: Chain, wallet: bt.Wallet) -> Snapshot:
        settings, hotkey = self._settings, wallet.hotkey.ss58_address
        snapshot = chain.snapshot()
        neuron = snapshot.find(hotkey)
        if neuron is None:
            raise OperatorError(
                f"hotkey {hotkey} is not registered on subnet {settings.netuid} of {settings.network}: register it "
                f"with `btcli subnets register --netuid {settings.netuid} --wallet.name {settings.wallet_name} "
                f"--wallet.hotkey {settings.wallet_hotkey}`"
            )
        log.info("Registered as uid %d of %d at block %d", neuron.uid, len(snapshot.neurons), snapshot.block)
        return snapshot

    async def _serve(self, chain: Chain, wallet: bt.Wallet, runner: TaskRunner) -> AxonServer:
        settings = self._settings
        external_ip = settings.axon_external_ip
        if external_ip is None and settings.chain_file is None:
            external_ip = await run_in_daemon(networking.get_external_ip, "external-ip")
        axon = bt.Axon(
            wallet=wallet,
            port=settings.axon_port,
            ip=settings.axon_ip,
            external_ip=external_ip or settings.axon_ip,
            external_port=settings.axon_external_port or settings.axon_port,
        )
        server = AxonServer(axon, settings.axon_ip, runner, self.decide, settings.miner.serving)
        await server.start()
        log.info("Axon listens on %s:%d", settings.axon_ip, settings.axon_port)
        try:
            await run_in_daemon(lambda: chain.announce(axon), "chain")
        except ChainError as error:
            log.warning("%s; validators cannot push to us, pulling goes on", error)
        return server

    async def _sync(self, chain: Chain, hotkey: str) -> None:
        try:
            snapshot = await run_in_daemon(chain.snapshot, "chain")
        except MinerError as error:
            log.warning("Metagraph not refreshed, the last one stays in use: %s", error)
            return
        if snapshot.find(hotkey) is None:
            raise Deregistered(f"hotkey {hotkey} is no longer registered on subnet {snapshot.netuid}")
        self._snapshot = snapshot
        log.debug("Metagraph refreshed at block %d", snapshot.block)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def _unless_stopped(self, blocking: Callable[[], Returned]) -> Returned | None:
        """What a blocking call returns, or None at once when a signal comes first."""
        work = asyncio.ensure_future(run_in_daemon(blocking, "start-up"))
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            return work.result()
        work.cancel()
        return None

    def _on_signal(self, number: int) -> None:
        log.info("%s received, stopping", signal.Signals(number).name)
        self._stop.set()
