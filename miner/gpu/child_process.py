"""A child process, and the pipe to it."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from miner.runtime import return_large_pieces

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which a killed process ends, unless the kernel holds it.
_END_TIMEOUT = 5.0


class ChildProcess:
    """A process that runs a function until the pipe to it ends; any thread may send and kill, one receives."""

    def __init__(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Start the process, which calls `work` with a Pipe and the arguments, all of which must be picklable.

        Raises OSError if the system has none to give.
        """
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_run, args=(theirs, work, *arguments), name=name, daemon=True)
        # A signal for the whole process group, as Ctrl-C is one, must not end the process before it is told to.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            theirs.close()
        # A process that takes nothing must not hold up whoever sends.
        self._outgoing: SimpleQueue[object] = SimpleQueue()
        threading.Thread(target=self._send_all, name=f"to {name}", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message, which is not None, without waiting for it to arrive."""
        self._outgoing.put(message)

    def receive(self, timeout: float | None) -> Any:
        """Return the next message, None if there is none in time. Raises EOFError once the process has ended."""
        try:
            return read(self._connection) if self._connection.poll(timeout) else None
        except OSError as error:
            raise EOFError from error

    def kill(self) -> None:
        """End the process."""
        with contextlib.suppress(ValueError):  # it was closed
            self._process.kill()

    def close(self) -> None:
        """End the process, wait until it has ended, and close the pipe."""
        self.kill()
        self._outgoing.put(None)
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

    def _send_all(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                write(self._connection, message)
            except OSError:
                return


class Pipe:
    """The pipe to the miner, as the child process has it; any thread may send, one receives."""

    def __init__(self, connection: Connection) -> None:
        """Take the child's end."""
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message to the miner, if it still reads."""
        with self._lock, contextlib.suppress(OSError):
            write(self._connection, message)

    def receive(self) -> Any:
        """Wait for the next message. Raises EOFError once the miner has ended."""
        try:
            return read(self._connection)
        except OSError as error:
            raise EOFError from error


def ignore_signals() -> None:
    """Ignore the signals that are for the miner alone."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def write(connection: Connection, message: object) -> None:
    """Write a message into a pipe."""
    # As bytes: the connection's own way would hand over tensors as shared memory, which is lost with its process.
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def read(connection: Connection) -> Any:
    """Read a message from a pipe."""
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own process


def _run(connection: Connection, work: Callable[..., None], *arguments: object) -> None:
    ignore_signals()
    return_large_pieces()
    with contextlib.suppress(EOFError):
        work(Pipe(connection), *arguments)
    # Without waiting for threads that hang.
    os._exit(0)
