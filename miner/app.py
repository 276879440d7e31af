"""The running miner: builds every part complete and in order, works, and stops them in reverse."""

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import bittensor as bt

from miner.axon import AxonServer, check_port_free, make_axon
from miner.config.run_settings import RunSettings
from miner.errors import ExitCode, MinerError
from miner.gpu import WorkerPool, build_workers
from miner.ledger import LedgerWriter, TaskRecorder, read_open_tasks
from miner.monitor import Observability, StartingMiner, Status, StatusBoard, view_validators
from miner.phases import ExperimentMonitor, ModelOwner, PhaseFiles, PhaseManager, StateFile
from miner.policy import Blacklist
from miner.pull import CooldownStore, Puller, SessionContext
from miner.runtime import SYSTEM_CLOCK, Supervisor, claim_folder, code_version, installed_version, log_to_files
from miner.subnet.metagraph import SavingChain, open_chain
from miner.subnet.metagraph_sync import MetagraphSync
from miner.subnet.registration import check_chain_file, find_external_ip, find_registration
from miner.subnet.wallet import load_wallet
from miner.tasks import CalibrationMonitor, PromptDecoder, TaskRunner

log = logging.getLogger(__name__)

Awaited = TypeVar("Awaited")

# On a stop, tasks in hand get this long to be generated and submitted, then what still runs gets this long to end; a
# process manager must wait longer than both (kill_timeout in ecosystem.config.js).
DRAIN_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
LEDGER_TIMEOUT = 2.0
# No generation takes this long; one that does hangs, and only a new process helps.
GENERATION_LIMIT = 900.0


class Stopped(Exception):  # noqa: N818 - a request, not a fault
    """A signal asked the miner to stop while it was starting."""


async def mine(settings: RunSettings) -> ExitCode:
    """Mine until a signal or a reason to end. Raise MinerError with the exit code that it stands for."""
    stop = _stop_on_signals()
    with suppress(Stopped):
        async with AsyncExitStack() as stack:
            miner = await _build(settings, stop, stack)
            await miner.work(stop)
    return ExitCode.CLEAN


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; ignore SIGHUP until somebody handles it."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        log.info("%s received, stopping", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return stop


async def _build(settings: RunSettings, stop: asyncio.Event, stack: AsyncExitStack) -> "Miner":
    """Build the miner's parts, each with what it needs; `stack` stops them in reverse."""
    options, files, config = settings.options, settings.files, settings.miner
    check_chain_file(options)
    wallet = await unless_stopped(stop, load_wallet(options))
    hotkey: str = wallet.hotkey.ss58_address
    stack.enter_context(claim_folder(files.state_dir))
    stack.enter_context(log_to_files(files.state_dir / "logs"))
    ledger = LedgerWriter(files.ledger)
    stack.push_async_callback(asyncio.to_thread, ledger.close, LEDGER_TIMEOUT)
    starting = StartingMiner(settings.configured.name, ledger, stop)
    board = StatusBoard(starting)
    stack.callback(_log_totals, board)
    observability = await stack.enter_async_context(Observability.open(files, ledger, board))
    sync = await unless_stopped(
        stop,
        MetagraphSync.open(
            lambda: SavingChain(open_chain(options.chain, options.netuid), files.metagraph),
            hotkey,
            config.chain.sync_interval,
        ),
    )
    board.source = replace(starting, metagraph_age=lambda: sync.age)
    find_registration(sync.snapshot, hotkey, options)
    blacklist = Blacklist(files.blacklist, settings.rules, lambda: sync.snapshot)
    if config.serving.enabled:
        check_port_free(options.axon_ip, options.axon_port)
    pool = WorkerPool(build_workers(config))
    stack.push_async_callback(_stop_workers, pool)
    owner = ModelOwner(
        check_allowed=settings.check_allowed,
        load=pool.load,
        unload=pool.unload,
    )
    phase_files = PhaseFiles(files.config, StateFile(files.state_dir))
    manager = await unless_stopped(stop, PhaseManager.open(phase_files, settings.configured, owner, ledger))
    decoder = PromptDecoder()
    stack.callback(decoder.close)
    calibration = CalibrationMonitor(ledger.path, manager.selector)
    runner = TaskRunner(
        pool,
        manager.selector,
        config.spz,
        observability.on_result,
        decoder,
        pass_model=lambda: calibration.model,
        has_sheets=observability.has_gallery,
    )
    recorder = TaskRecorder(
        ledger,
        await asyncio.to_thread(code_version),
        sync.uid_of,
        await asyncio.to_thread(read_open_tasks, ledger.path),
        observability.metrics.observe,
    )
    supervisor = Supervisor()
    context = SessionContext(wallet.hotkey, runner, blacklist.decide, config.pulling, SYSTEM_CLOCK, recorder)
    puller = Puller(context, supervisor, CooldownStore(settings.cooldowns(hotkey)))
    external_ip = await first_or_stop(stop, find_external_ip(options)) if config.serving.enabled else None
    server = None
    if config.serving.enabled:
        axon = make_axon(wallet, options, external_ip)
        server = AxonServer(axon, runner, blacklist.decide, config.serving, recorder, settings.used_nonces(hotkey))
    return Miner(
        settings=settings,
        board=board,
        observability=observability,
        sync=sync,
        blacklist=blacklist,
        ledger=ledger,
        pool=pool,
        manager=manager,
        experiments=ExperimentMonitor(ledger.path, manager),
        calibration=calibration,
        runner=runner,
        supervisor=supervisor,
        puller=puller,
        server=server,
        announced_axon=server.axon if server is not None and external_ip is not None else None,
        started_at=starting.started_at,
    )


@dataclass(frozen=True)
class Miner:
    """All parts of a miner; `server` is None if the axon is switched off, `announced_axon` if it is not announced."""

    settings: RunSettings
    board: StatusBoard
    observability: Observability
    sync: MetagraphSync
    blacklist: Blacklist
    ledger: LedgerWriter
    pool: WorkerPool
    manager: PhaseManager
    experiments: ExperimentMonitor
    calibration: CalibrationMonitor
    runner: TaskRunner
    supervisor: Supervisor
    puller: Puller
    server: AxonServer | None
    announced_axon: bt.Axon | None
    started_at: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, stop: asyncio.Event) -> None:
        """Take tasks until `stop` is set, then finish those in hand. Raise MinerError if mining cannot go on."""
        failure: MinerError | None = None
        try:
            if self.server is not None:
                await self.server.start()
            log.info("Ready: %s, hotkey %s", self.manager.selector.choice.label, self.puller.hotkey)
            self._start_background_tasks()
            self.observability.local_api.runner = self.runner
            self.board.source = self
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
            failure = await first_or_stop(stop, self.supervisor.wait_for_failure())
        finally:
            self.stopping.set()
            self.observability.local_api.runner = None
            self.runner.drain()
            await asyncio.gather(self.puller.stop(DRAIN_TIMEOUT), self._stop_server(DRAIN_TIMEOUT))
            await self.supervisor.stop()
        if failure is not None:
            raise failure

    def _start_background_tasks(self) -> None:
        start = self.supervisor.start
        if self.settings.miner.pulling.enabled:
            self.update_validators()
        start("the metagraph's refresh", lambda: self.sync.run(self.announced_axon, lambda _: self.update_validators()))
        start("the blacklist's watch", lambda: self.blacklist.watch(self.update_validators))
        start("the phases' watch", self.manager.run, vital=False)
        start("the experiment's watch", self.experiments.run, vital=False)
        start("the gate's calibration", self.calibration.run, vital=False)
        if self.server is not None:
            start("the axon's watch", self.server.watch)
        start("the workers' watch", lambda: watch_workers(self.pool))
        self.observability.supervise(self.supervisor, self.pool.workers)

    async def _stop_server(self, timeout: float) -> None:  # noqa: ASYNC109
        if self.server is not None:
            await self.server.stop(timeout)

    def update_validators(self) -> None:
        """Start and retire pulling to fit the present snapshot and policy."""
        if self.settings.miner.pulling.enabled and not self.stopping.is_set():
            self.puller.update(self.sync.snapshot)

    def reload(self) -> None:
        """Read the phase files and the blacklist again now."""
        self.manager.poke()
        if self.blacklist.reload():
            self.update_validators()

    @property
    def counters(self) -> Counter[str]:
        """How tasks ended, requests that were refused, and background tasks that crashed."""
        restarts = Counter({f"restarts of {name}": count for name, count in self.supervisor.restarts.items()})
        refusals = self.server.refusals if self.server is not None else Counter[str]()
        return restarts + self.runner.counters + refusals

    def status(self) -> Status:
        """Return the present status for the monitor."""
        choice, experiment = self.manager.selector.choice, self.experiments.status
        return Status(
            status="stopping" if self.stopping.is_set() else "ok",
            pipeline_loaded=True,
            phase=choice.short_label,
            queue=self.pool.waiting,
            metagraph_age=self.sync.age,
            last_success=self.runner.last_success,
            uptime=time.monotonic() - self.started_at,
            counters=self.counters,
            restarts=self.supervisor.restarts,
            workers=self.pool.statuses,
            ledger=self.ledger.status,
            validators=view_validators(self.puller.records.values(), SYSTEM_CLOCK),
            config_hashes={phase.name: phase.config_hash for phase in choice.phases},
            unanswered={phase.name: phase.settings.unanswered for phase in choice.phases},
            experiment=experiment.as_json() if experiment else None,
            problems=self.manager.problems,
            version=installed_version(),
        )


async def watch_workers(pool: WorkerPool) -> None:
    """Raise MinerError once nothing more can be generated in this process."""
    await pool.watch(GENERATION_LIMIT)


def _log_totals(board: StatusBoard) -> None:
    totals = ", ".join(f"{name} {count}" for name, count in sorted(board.status().counters.items()))
    log.info("Stopped. Totals: %s", totals or "nothing done")


async def _stop_workers(pool: WorkerPool) -> None:
    if not await pool.stop(STOP_TIMEOUT):
        log.warning("The current generation did not stop within %.0f s and is abandoned", STOP_TIMEOUT)


async def first_or_stop(stop: asyncio.Event, awaitable: Awaitable[Awaited]) -> Awaited | None:
    """Return what is awaited, or None as soon as `stop` is set."""
    work = asyncio.ensure_future(awaitable)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        return work.result()
    work.cancel()
    return None


async def unless_stopped(stop: asyncio.Event, awaitable: Awaitable[Awaited]) -> Awaited:
    """Return what is awaited, which must not be None. Raise Stopped as soon as `stop` is set."""
    result = await first_or_stop(stop, awaitable)
    if result is None:
        raise Stopped
    return result
