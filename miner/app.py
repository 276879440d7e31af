"""The running miner: start, work, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Awaitable

import bittensor as bt

from miner.axon.server import AxonServer, check_port_free
from miner.config.settings import Settings
from miner.errors import ExitCode, MinerError
from miner.gpu.models import load, release
from miner.gpu.scheduler import Scheduler
from miner.ledger.recorder import TaskRecorder, unsettled
from miner.ledger.writer import LedgerWriter
from miner.monitor import Status, installed_version, validator_views
from miner.monitor.local_api import Run
from miner.monitor.observability import Observability
from miner.phases.experiment_monitor import ExperimentMonitor
from miner.phases.manager import PhaseFiles, PhaseManager
from miner.phases.selector import PhaseSelector
from miner.phases.state import StateFile
from miner.policy.blacklist import Blacklist
from miner.policy.policy import PolicyDecision
from miner.pull.puller import Puller
from miner.pull.session import SessionContext
from miner.pull.store import CooldownStore
from miner.runtime.clock import SYSTEM_CLOCK
from miner.runtime.gpu_memory import gpu_memory
from miner.runtime.supervisor import Supervisor
from miner.runtime.threads import Returned
from miner.runtime.version import code_version
from miner.subnet.metagraph import Snapshot, open_chain
from miner.subnet.metagraph_sync import MetagraphSync
from miner.subnet.registration import check_chain_file, find_external_ip, find_registration, load_wallet
from miner.tasks.runner import TaskRunner

log = logging.getLogger(__name__)

# When we stop, tasks in hand get this long to be generated and submitted, and then what still runs gets this long to
# end; a process manager has to wait longer than both (kill_timeout in ecosystem.config.js).
DRAIN_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
LEDGER_TIMEOUT = 2.0
# No generation takes this long; one that does hangs, and only a new process helps.
GENERATION_LIMIT = 900.0


async def watch_generator(scheduler: Scheduler) -> None:
    """Raises MinerError once no more can be generated in this process."""
    ended = asyncio.wrap_future(scheduler.failure)
    while not ended.done():
        await asyncio.wait({ended}, timeout=GENERATION_LIMIT / 10)
        if scheduler.running_for > GENERATION_LIMIT:
            raise MinerError(f"a generation has hung for {GENERATION_LIMIT:.0f} s; only a new process can go on")
    error = ended.result()
    raise MinerError(f"the generator cannot go on in this process: {type(error).__name__}: {error}")


class Node:
    """One miner; `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._chain: MetagraphSync | None = None
        self._supervisor: Supervisor | None = None
        self._puller: Puller | None = None
        self._blacklist: Blacklist | None = None
        self._runner: TaskRunner | None = None
        self._server: AxonServer | None = None
        self._scheduler = Scheduler()
        self._ledger = LedgerWriter(settings.ledger)
        self._control = PhaseManager(
            PhaseFiles(settings.config, StateFile(settings.state_folder)),
            settings.configured,
            settings.check_allowed,
            lambda phase: load(phase, settings.miner, self._scheduler),
            lambda: self._scheduler.submit(lambda _: release(), 0.0),
            self._ledger,
        )
        self._referee = ExperimentMonitor(self._ledger.path, self._control)
        self._watching = Observability(settings, self.status, self._ledger, self._local_run)
        self._ready = False
        self._started_at = time.monotonic()

    def decide(self, hotkey: str) -> PolicyDecision:
        """The policy on a hotkey with the present snapshot."""
        assert self._blacklist is not None
        return self._blacklist.decide(hotkey)

    @property
    def snapshot(self) -> Snapshot:
        """The subnet as last seen; there is one from registration on."""
        assert self._chain is not None
        return self._chain.snapshot

    @property
    def snapshot_age(self) -> float:
        """Seconds since the subnet was seen."""
        assert self._chain is not None
        return self._chain.age

    @property
    def restarts(self) -> Counter[str]:
        """How often each background task died and was started again."""
        return Counter() if self._supervisor is None else self._supervisor.restarts

    @property
    def counters(self) -> Counter[str]:
        """How tasks ended, requests that were refused and background tasks that died."""
        counters = Counter({f"restarts of {name}": count for name, count in self.restarts.items()})
        if self._runner is not None:
            counters += self._runner.counters
        if self._server is not None:
            counters += self._server.refusals
        return counters

    def status(self) -> Status:
        """What the monitor tells."""
        runner, running, standing = self._runner, self._control.running, self._referee.standing
        return Status(
            status="stopping" if self._stop.is_set() else "ok" if self._ready else "starting",
            pipeline_loaded=runner is not None,
            phase=running.short if running else self._settings.configured.name,
            queue=0 if runner is None else runner.waiting,
            metagraph_age=None if self._blacklist is None else self.snapshot_age,
            last_success=None if runner is None else runner.last_success,
            uptime=time.monotonic() - self._started_at,
            counters=self.counters,
            restarts=self.restarts,
            gpus=gpu_memory(),
            ledger=self._ledger.status,
            validators=validator_views(self._puller.records.values(), SYSTEM_CLOCK) if self._puller else (),
            config_hashes={phase.name: phase.config_hash for phase in running.phases} if running else {},
            experiment=standing.as_json() if standing else None,
            version=installed_version(),
        )

    @property
    def phases(self) -> PhaseSelector:
        """What tasks are generated with; there is something once the networks are loaded."""
        return self._control.phases

    def _local_run(self) -> Run | None:
        """What generates for those on this machine, once and as long as we work."""
        return self._runner.run if self._runner is not None and self._ready else None

    def choose_validators(self) -> None:
        """Start and retire pulling to fit the present snapshot and policy."""
        if self._puller is not None:
            self._puller.update(self.snapshot)

    async def run(self) -> ExitCode:
        """Work until a signal or a reason to end. Raises MinerError with the exit code it stands for."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        settings = self._settings
        check_chain_file(settings)
        wallet = load_wallet(settings)
        async with self._watching.serving():
            return await self._run(wallet)

    async def _run(self, wallet: bt.Wallet) -> ExitCode:
        settings = self._settings
        hotkey, interval = wallet.hotkey.ss58_address, settings.miner.chain.sync_interval
        chain = self._chain = MetagraphSync(lambda: open_chain(settings.network, settings.netuid), hotkey, interval)
        if await self._unless_stopped(find_registration(chain, hotkey, settings)) is None:
            return ExitCode.CLEAN
        self._blacklist = Blacklist(settings.rules_file, settings.rules, lambda: self.snapshot)
        if settings.miner.serving.enabled:
            check_port_free(settings.axon_ip, settings.axon_port)
        self._ledger.start()
        self._scheduler.start()
        try:
            phases = await self._unless_stopped(self._control.start())
            if phases is not None:
                runner = TaskRunner(self._scheduler, phases, settings.miner.spz, self._watching.on_result)
                self._runner = runner
                await self._work(chain, wallet, runner)
        finally:
            ended = await asyncio.to_thread(self._scheduler.stop, STOP_TIMEOUT)
            if not ended:
                log.warning("The current generation did not stop within %.0f s and is abandoned", STOP_TIMEOUT)
            await asyncio.to_thread(self._ledger.close, LEDGER_TIMEOUT)
            totals = ", ".join(f"{name} {count}" for name, count in sorted(self.counters.items()))
            log.info("Stopped. Totals: %s", totals or "nothing done")
        return ExitCode.CLEAN

    async def _books(self) -> TaskRecorder:
        rows = await asyncio.to_thread(unsettled, self._ledger.path)
        version = await asyncio.to_thread(code_version)
        return TaskRecorder(self._ledger, version, self._uid_of, rows, self._watching.observe)

    def _uid_of(self, hotkey: str) -> int | None:
        neuron = self.snapshot.find(hotkey)
        return None if neuron is None else neuron.uid

    async def _work(self, chain: MetagraphSync, wallet: bt.Wallet, runner: TaskRunner) -> None:
        settings = self._settings
        supervisor = self._supervisor = Supervisor()
        books = await self._books()
        environment = SessionContext(wallet.hotkey, runner, self.decide, settings.miner.pulling, SYSTEM_CLOCK, books)
        puller = Puller(environment, supervisor, CooldownStore(settings.cooldowns(wallet.hotkey.ss58_address)))
        if settings.miner.serving.enabled:
            self._server = await self._serve(wallet, runner, books)
        try:
            log.info("Ready: %s, hotkey %s", self._control.phases.choice.label, wallet.hotkey.ss58_address)
            if settings.miner.pulling.enabled:
                self._puller = puller
                self.choose_validators()
            supervisor.start("the metagraph's refresh", lambda: chain.run(lambda _: self.choose_validators()))
            supervisor.start("the blacklist's watch", self._watch_blacklist)
            supervisor.start("the phases' watch", self._control.run, vital=False)
            supervisor.start("the experiment's watch", self._referee.run, vital=False)
            if self._server is not None:
                supervisor.start("the axon's watch", self._server.watch)
            supervisor.start("the generator's watch", lambda: watch_generator(self._scheduler))
            self._watching.supervise(supervisor)
            self._ready = True
            failure = await self._unless_stopped(supervisor.failed())
        finally:
            self._stop.set()
            self._ready = False
            self._puller = None
            runner.hurry()
            await asyncio.gather(puller.stop(DRAIN_TIMEOUT), self._close(self._server))
            await supervisor.stop()
        if failure is not None:
            raise failure

    async def _watch_blacklist(self) -> None:
        assert self._blacklist is not None
        await self._blacklist.watch(self.choose_validators)

    async def _serve(self, wallet: bt.Wallet, runner: TaskRunner, books: TaskRecorder) -> AxonServer:
        settings = self._settings
        external_ip = await find_external_ip(settings)
        axon = bt.Axon(
            wallet=wallet,
            port=settings.axon_port,
            ip=settings.axon_ip,
            external_ip=external_ip or settings.axon_ip,
            external_port=settings.axon_external_port or settings.axon_port,
        )
        server = AxonServer(axon, settings.axon_ip, runner, self.decide, settings.miner.serving, books)
        await server.start()
        log.info("Axon listens on %s:%d", settings.axon_ip, settings.axon_port)
        if external_ip is not None and self._chain is not None:
            self._chain.axon = axon
        return server

    @staticmethod
    async def _close(server: AxonServer | None) -> None:
        if server is not None:
            await server.stop()
            log.info("Axon closed")

    async def _unless_stopped(self, awaitable: Awaitable[Returned]) -> Returned | None:
        """What is awaited, or None at once when a signal comes first."""
        work = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            return work.result()
        work.cancel()
        return None

    def _on_hangup(self) -> None:
        self._control.poke()
        if self._blacklist is not None and self._blacklist.reload():
            self.choose_validators()

    def _on_signal(self, number: int) -> None:
        log.info("%s received, stopping", signal.Signals(number).name)
        self._stop.set()
