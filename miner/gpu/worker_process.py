"""A child process that drives one device: its start, the pipes to it, and what runs in it."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from miner.config import MinerSettings
from miner.gpu import messages
from miner.gpu.link import Link
from miner.gpu.local_worker import LoadModels, LocalWorker
from miner.gpu.models import load_phase_models
from miner.gpu.remote_worker import RemoteWorker
from miner.gpu.worker_server import WorkerServer, log_to

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which a killed process ends, unless the kernel holds it.
_END_TIMEOUT = 5.0

MakeLoader = Callable[[str], LoadModels]
"""Returns, in the child, the function that loads the models of a phase onto a device; it must be picklable."""


def process_worker(device: str, make_loader: MakeLoader) -> RemoteWorker:
    """Return a worker that is a child process, and another one whenever that is lost."""
    return RemoteWorker(device, partial(ProcessLink, device, make_loader), "this machine")


def settings_loader(device: str, settings: MinerSettings) -> LoadModels:
    """Return the function that loads the models of a phase as the settings say."""
    return partial(load_phase_models, settings=settings, device=device)


class ProcessLink(Link):
    """A child process, and the pipe to it."""

    def __init__(self, device: str, make_loader: MakeLoader) -> None:
        """Start the process, which sees no other GPU than its own. Raises OSError if the system has none to give."""
        self._connection, theirs = _SPAWN.Pipe()
        level = logging.getLogger("miner").getEffectiveLevel()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, device, make_loader, level), name=f"worker {device}", daemon=True
        )
        # A signal for the whole process group, as Ctrl-C is one, must not end the worker before its last candidate.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            theirs.close()
        # A process that takes nothing must not hold up whoever sends.
        self._orders: SimpleQueue[messages.Order | None] = SimpleQueue()
        threading.Thread(target=self._send_orders, name=f"orders of {device}", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self._process.pid

    def send(self, order: messages.Order) -> None:
        """Send an order, without waiting for it to arrive."""
        self._orders.put(order)

    def receive(self, timeout: float) -> messages.Report | None:
        """Return the next report, None if there is none in time. Raises EOFError once the process has ended."""
        try:
            if not self._connection.poll(timeout):
                return None
            report: messages.Report = _read(self._connection)
        except OSError as error:
            raise EOFError from error
        return report

    def kill(self) -> None:
        """End the process."""
        with contextlib.suppress(ValueError):  # it was closed
            self._process.kill()

    def close(self) -> None:
        """End the process, wait until it has ended, and close the pipe."""
        self.kill()
        self._orders.put(None)
        self._process.join(_END_TIMEOUT)
        self._connection.close()
        with contextlib.suppress(ValueError):  # the kernel holds it
            self._process.close()

    def epitaph(self) -> str:
        """Return how the process ended."""
        self._process.join(_END_TIMEOUT)
        code = self._process.exitcode
        if code is None:
            return "its process no longer answers"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def _send_orders(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                _write(self._connection, order)
            except OSError:
                return


def _serve(connection: Connection, device: str, make_loader: MakeLoader, level: int) -> None:
    """Carry out orders until the pipe ends, be it with the miner."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    lock = threading.Lock()

    def send(report: messages.Report) -> None:
        # A miner that has ended reads no more.
        with lock, contextlib.suppress(OSError):
            _write(connection, report)

    log_to(send, level)
    worker = LocalWorker(device, make_loader(_hide_others(device)))
    server = WorkerServer(worker, send)
    with contextlib.suppress(EOFError, OSError):
        while True:
            order: messages.Order = _read(connection)
            server.handle(order)
            if isinstance(order, messages.Stop):
                break
    # Without waiting for threads that hang.
    os._exit(0)


def _write(connection: Connection, message: messages.Order | messages.Report) -> None:
    # As bytes: the connection's own way would hand over tensors as shared memory, which is lost with its process.
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _read(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own process


def _hide_others(device: str) -> str:
    """Make a GPU the only one of this process, before CUDA is used; return its name from then on."""
    if not device.startswith("cuda"):
        return device
    index = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index].strip() if visible else str(index)
    return "cuda"
