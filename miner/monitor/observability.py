"""All that lets the operator watch, put together: the HTTP server, pictures of results, log files, housekeeping."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from miner.config.settings import Settings
from miner.ledger.events import Event
from miner.ledger.writer import LedgerWriter
from miner.monitor import Dashboard, Gallery, LocalApi, Metrics, Monitor, Status, gallery_result
from miner.monitor.local_api import Run
from miner.monitor.retention import Retention
from miner.runtime.logging import stop_writing, write_to
from miner.runtime.supervisor import Supervisor
from miner.tasks.task import Result, Task

log = logging.getLogger(__name__)


class Observability:
    """Nothing here can stop the miner but a port that is taken when `serving` is entered."""

    def __init__(
        self, settings: Settings, status: Callable[[], Status], ledger: LedgerWriter, run: Callable[[], Run | None]
    ) -> None:
        """`status` as for Monitor, `run` as for LocalApi."""
        self._settings = settings.miner.monitor
        self._state = settings.state_folder
        self._ledger = ledger
        self._status = status
        self._run = run
        self._metrics = Metrics(status)
        has_gallery = self._settings.enabled and self._settings.gallery
        self._gallery = Gallery(self._state) if has_gallery else None
        self._housekeeping = settings.miner.housekeeping

    def observe(self, event: Event) -> None:
        """Take what the ledger is told, from any thread."""
        self._metrics.observe(event)

    def on_result(self, task: Task, result: Result) -> None:
        """Take a result, on the event loop; returns at once."""
        if self._gallery is not None:
            self._gallery.offer(gallery_result(task, result))

    def supervise(self, supervisor: Supervisor) -> None:
        """Start what works in the background."""
        if self._gallery is not None:
            supervisor.start("the gallery", self._gallery.run, vital=False)
        if self._housekeeping.enabled:
            keeper = Retention(self._housekeeping, self._state, self._ledger.path, self._ledger.record)
            supervisor.start("the housekeeping", keeper.run, vital=False)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Write the log into files and serve HTTP meanwhile. Raises OperatorError if the address cannot be bound."""
        file = write_to(self._state / "logs")
        try:
            if not self._settings.enabled:
                yield
                return
            monitor = Monitor(self._status, self._settings.host, self._settings.port, self._routes())
            await monitor.start()
            log.info("The miner's page is http://%s:%d/", self._settings.host, self._settings.port)
            try:
                yield
            finally:
                await monitor.stop()
        finally:
            stop_writing(file)

    def _routes(self) -> list[web.AbstractRouteDef]:
        routes = [*self._metrics.routes(), *Dashboard(self._status, self._ledger.path, self._gallery).routes()]
        if self._settings.generate.enabled:
            routes += LocalApi(self._run, self._settings.generate).routes()
        return routes
