"""Everything that lets the operator observe the miner: the HTTP server, the metrics, the gallery and retention."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from miner.config import OperatorFiles
from miner.gpu import Worker
from miner.ledger import LedgerWriter
from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, GalleryResult
from miner.monitor.gpu_drawing import choose_gpu_drawing
from miner.monitor.local_api import LocalApi
from miner.monitor.metrics import Metrics
from miner.monitor.retention import Retention
from miner.monitor.server import Monitor
from miner.monitor.status import StatusSource
from miner.monitor.watch import Watch
from miner.runtime import Supervisor
from miner.tasks import Result, Task

log = logging.getLogger(__name__)


class Observability:
    """The parts that observe a miner; none of them can stop it once `open` has bound the monitor's port."""

    def __init__(self, files: OperatorFiles, ledger: LedgerWriter, source: StatusSource) -> None:
        """Build the parts that the settings enable; `open` also serves them."""
        settings = files.settings
        self._files = files
        self._ledger = ledger
        self.metrics = Metrics(source)
        self.local_api = LocalApi(settings.monitor.generate)
        self._gallery = Gallery(files.state_dir) if settings.monitor.enabled and settings.monitor.gallery else None
        dashboard = Dashboard(source, files, self._gallery)
        routes = [*self.metrics.routes(), *dashboard.routes()]
        if settings.monitor.generate.enabled:
            routes += self.local_api.routes()
        told = settings.notifications
        self._watch = Watch(told, source, ledger.path, files.state_dir) if told.enabled else None
        monitor = settings.monitor
        self._monitor = Monitor(source, monitor.host, monitor.port, routes, allowed_hosts=monitor.allowed_hosts)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, files: OperatorFiles, ledger: LedgerWriter, source: StatusSource
    ) -> "AsyncIterator[Observability]":
        """Serve HTTP, if the monitor is enabled, while the context lasts. Raises OperatorError if it cannot."""
        observability, settings = cls(files, ledger, source), files.settings.monitor
        async with AsyncExitStack() as stack:
            if settings.enabled:
                await observability._monitor.start()
                stack.push_async_callback(observability._monitor.stop)
                log.info("The miner's page is http://%s:%d/", settings.host, settings.port)
            if observability._watch is not None:
                await stack.enter_async_context(observability._watch.telling_of_the_end())
            yield observability

    @property
    def has_gallery(self) -> bool:
        """Whether results are kept for the page."""
        return self._gallery is not None

    def on_result(self, task: Task, result: Result) -> None:
        """Offer a result to the gallery, on the event loop; returns at once."""
        if self._gallery is not None:
            self._gallery.offer(GalleryResult.of(task, result))

    def supervise(self, supervisor: Supervisor, workers: Sequence[Worker]) -> None:
        """Start the background tasks; results are drawn on the workers' GPU if this process drives it."""
        if (gallery := self._gallery) is not None:
            draw_on_gpu = choose_gpu_drawing(workers)
            supervisor.start("the gallery", lambda: gallery.run(draw_on_gpu), vital=False)
        if self._watch is not None:
            supervisor.start("the notifications", self._watch.run, vital=False)
        housekeeping = self._files.settings.housekeeping
        if housekeeping.enabled:
            retention = Retention(housekeeping, self._files.state_dir, self._ledger.path, self._ledger.record)
            supervisor.start("the housekeeping", retention.run, vital=False)
