"""The far side of a worker that lives elsewhere: carries out orders with a local worker, and reports."""

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Future

from miner.errors import OperatorError
from miner.gpu import messages
from miner.gpu.local_worker import LocalWorker
from miner.gpu.worker import LoadedPhase
from miner.runtime import PACKAGES
from pipeline import Cancelled, FinishedCandidate, GenerationJob, WorkerLost

SendReport = Callable[[messages.Report], None]


class WorkerServer:
    """Turns orders into calls of a local worker, and what comes of them into reports, sent from any thread."""

    def __init__(self, worker: LocalWorker, send: SendReport) -> None:
        """Serve a worker that nobody else uses."""
        self._worker = worker
        self._send = send
        self._jobs: dict[str, GenerationJob] = {}
        # The number of the last order to make a candidate, and of the last one after which the worker was free.
        self._number = self._freed = 0
        worker.listen(self._report_state)

    def handle(self, order: messages.Order) -> None:
        """Carry out an order, without waiting for what comes of it."""
        match order:
            case messages.Load(models, phase):
                self._worker.load(models, phase).add_done_callback(lambda done: self._report_load(models, done))
            case messages.Unload(models):
                self._worker.unload(models)
            case messages.Begin(job):
                self._jobs[job.task] = job
            case messages.Make(number, models, task, attempt):
                made = self._worker.make(models, self._jobs[task], attempt)
                # The worker is busy from here on, or done already.
                self._number = number
                self._report_state()
                made.add_done_callback(lambda done: self._report_candidate(number, done))
            case messages.Cancel(task, seed):
                if task in self._jobs:
                    self._worker.cancel(self._jobs[task], seed)
            case messages.Forget(task):
                self._jobs.pop(task, None)
                self._worker.forget(task)
            case messages.Stop():
                self._worker.stop(0.0)

    def _report_load(self, models: str, done: "Future[LoadedPhase]") -> None:
        error = done.exception()
        if error is None:
            self._send(messages.Loaded(models, done.result(), self._worker.memory()))
        elif isinstance(error, OperatorError):
            self._send(messages.NotLoaded(models, str(error), is_mistake=True))
        elif not isinstance(error, WorkerLost):
            self._send(messages.NotLoaded(models, f"{type(error).__name__}: {error}", is_mistake=False))

    def _report_candidate(self, number: int, done: "Future[FinishedCandidate]") -> None:
        error = done.exception()
        if error is None:
            self._send(messages.Made(number, done.result(), self._worker.memory()))
        elif isinstance(error, Cancelled):
            self._send(messages.NotMade(number, str(error), "", is_cancelled=True))
        elif not isinstance(error, WorkerLost):
            details = "".join(traceback.format_exception(error)).rstrip()
            self._send(messages.NotMade(number, f"{type(error).__name__}: {error}", details, is_cancelled=False))

    def _report_state(self) -> None:
        if not self._worker.can_come_back:
            self._send(messages.Fault(self._worker.status().problem))
        elif self._worker.is_free and self._freed < self._number:
            self._freed = self._number
            self._send(messages.Free(self._number))


class ReportingHandler(logging.Handler):
    """Sends the lines of the log to the miner."""

    def __init__(self, send: SendReport) -> None:
        """Send with this function."""
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, with its traceback if there is one."""
        text = record.getMessage()
        if record.exc_info:
            text = "\n".join([text, *traceback.format_exception(*record.exc_info)])
        self._send(messages.LogLine(record.name, record.levelno, text))


def log_to(send: SendReport, level: int) -> None:
    """Send what this process logs, from a level on."""
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [ReportingHandler(send)]
        logger.propagate = False
        logger.setLevel(level)
