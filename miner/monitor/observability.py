"""Everything that lets the operator observe the miner: the HTTP server, the gallery, log files and retention."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from miner.config.run_settings import RunSettings
from miner.ledger.events import Event
from miner.ledger.writer import LedgerWriter
from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, GalleryResult
from miner.monitor.local_api import LocalApi
from miner.monitor.metrics import Metrics
from miner.monitor.retention import Retention
from miner.monitor.server import Monitor
from miner.monitor.status import StartingMiner, StatusBoard
from miner.runtime.logging import log_to_files
from miner.runtime.supervisor import Supervisor
from miner.tasks.task import Result, Task

log = logging.getLogger(__name__)


class Observability:
    """The parts that observe the miner; none of them can stop it, except a port in use when `serving` is entered.

    `status` decides what the monitor shows, at first that the miner is starting, and `local_api` runs tasks of clients
    on this machine once it is given a runner.
    """

    def __init__(self, settings: RunSettings, ledger: LedgerWriter) -> None:
        """Build the parts that are enabled; nothing runs or listens yet."""
        self.status = StatusBoard(StartingMiner(settings.configured.name, ledger))
        self.local_api = LocalApi(settings.miner.monitor.generate)
        self._settings = settings.miner.monitor
        self._state_dir = settings.files.state_dir
        self._ledger = ledger
        self._metrics = Metrics(self.status)
        has_gallery = self._settings.enabled and self._settings.gallery
        self._gallery = Gallery(self._state_dir) if has_gallery else None
        self._retention = settings.miner.housekeeping

    def observe(self, event: Event) -> None:
        """Count an event of the ledger in the metrics, from any thread."""
        self._metrics.observe(event)

    def on_result(self, task: Task, result: Result) -> None:
        """Offer a result to the gallery, on the event loop; returns at once."""
        if self._gallery is not None:
            self._gallery.offer(GalleryResult.of(task, result))

    def supervise(self, supervisor: Supervisor) -> None:
        """Start the background tasks."""
        if self._gallery is not None:
            supervisor.start("the gallery", self._gallery.run, vital=False)
        if self._retention.enabled:
            retention = Retention(self._retention, self._state_dir, self._ledger.path, self._ledger.record)
            supervisor.start("the housekeeping", retention.run, vital=False)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Write log files and serve HTTP while the context lasts. Raises OperatorError if the port is in use."""
        with log_to_files(self._state_dir / "logs"):
            if not self._settings.enabled:
                yield
                return
            routes = [
                *self._metrics.routes(),
                *Dashboard(self.status, self._ledger.path, self._gallery).routes(),
                *(self.local_api.routes() if self._settings.generate.enabled else ()),
            ]
            monitor = Monitor(self.status, self._settings.host, self._settings.port, routes)
            await monitor.start()
            log.info("The miner's page is http://%s:%d/", self._settings.host, self._settings.port)
            try:
                yield
            finally:
                await monitor.stop()
