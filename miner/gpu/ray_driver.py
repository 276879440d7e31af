"""The driver of a Ray cluster, in a process of its own, since Ray ends a driver that loses its cluster.

Ray is imported here and on the nodes, not in the miner's process.
"""

import contextlib
import logging
import os
import pickle
import socket
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

from miner.gpu.child_process import Pipe, ignore_signals
from miner.gpu.ray_actor import RayActor, comparable_version
from miner.gpu.worker_process import MakeLoader

RAY_INSTALL = "pip install 'sn17-miner[ray]'"
# Seconds between two attempts to reach the cluster.
RETRY_DELAY = 1.0
# Seconds in which a cluster with a free GPU has started an actor there, with all its imports.
START_TIMEOUT = 120.0
PORT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster, and what is asked of it: one of a resource for each of `count` actors."""

    address: str
    resource: Literal["GPU", "CPU"]
    count: int


# To the driver.


@dataclass(frozen=True)
class Open:
    """Start an actor, and give it this number."""

    number: int


@dataclass(frozen=True)
class Forward:
    """Have an actor carry out an order."""

    number: int
    order: bytes


@dataclass(frozen=True)
class End:
    """End an actor, whatever it is doing."""

    number: int


ToDriver = Open | Forward | End

# From the driver.


@dataclass(frozen=True)
class Waiting:
    """The cluster is not there yet, or not all of it."""

    reason: str


@dataclass(frozen=True)
class Connected:
    """The cluster is there. `is_authenticated`: whether it asks for a token."""

    is_authenticated: bool


@dataclass(frozen=True)
class NotConnected:
    """The cluster cannot be used; the driver ends."""

    reason: str


@dataclass(frozen=True)
class Opened:
    """An actor was started on the node with this address."""

    number: int
    place: str


@dataclass(frozen=True)
class NotOpened:
    """No actor can be started: there is no place for it, or its node is unfit, which only the operator can change."""

    number: int
    reason: str
    is_unfit: bool


@dataclass(frozen=True)
class Relayed:
    """A report of an actor."""

    number: int
    report: bytes


@dataclass(frozen=True)
class Ended:
    """An actor has ended."""

    number: int
    reason: str


FromDriver = Waiting | Connected | NotConnected | Opened | NotOpened | Relayed | Ended


def drive(pipe: Pipe, cluster: Cluster, make_loader: MakeLoader, level: int, patience: float, is_first: bool) -> None:
    """Connect to a cluster, then start actors and carry orders and reports until the pipe ends.

    patience: the seconds for which a cluster is waited for after it has failed. is_first: whether it must have all GPUs
    that are asked for; later, some of its nodes may be lost. level: the least that the actors log.
    """
    try:
        _connect(pipe, cluster, patience, is_first)
    except Exception as error:  # whatever Ray raises is for the operator
        pipe.send(NotConnected(_first_line(error)))
        return
    pipe.send(Connected(os.environ.get("RAY_AUTH_MODE", "").lower() == "token"))
    actors: dict[int, _Actor] = {}
    while True:
        message: ToDriver = pipe.receive()
        match message:
            case Open(number):
                actors[number] = _Actor(pipe, number, cluster.resource, make_loader, level)
            case Forward(number, order):
                # Whoever sends it may not know yet that this life has ended.
                if number in actors:
                    actors[number].orders.put(order)
            case End(number):
                actors.pop(number).end()


class _Actor:
    """An actor, from its start on; two threads wait for what it answers."""

    def __init__(self, pipe: Pipe, number: int, resource: str, make_loader: MakeLoader, level: int) -> None:
        import ray

        self._ray = ray
        self._pipe = pipe
        self._number = number
        self._resource = resource
        self._arguments = ("cpu" if resource == "CPU" else "cuda", pickle.dumps(make_loader), level)
        self.orders: SimpleQueue[bytes | None] = SimpleQueue()
        share = {"num_gpus": 1} if resource == "GPU" else {"num_cpus": 1}
        self._actor: Any = ray.remote(RayActor).options(max_concurrency=2, **share).remote()
        threading.Thread(target=self._run, name=f"reports of actor {number}", daemon=True).start()

    def end(self) -> None:
        """End it, whatever it is doing."""
        self.orders.put(None)
        self._ray.kill(self._actor)

    def _run(self) -> None:
        errors = self._ray.exceptions
        try:
            if not self._start():
                return
            threading.Thread(target=self._send, name=f"orders of actor {self._number}", daemon=True).start()
            while (report := self._ray.get(self._actor.receive.remote())) is not None:
                self._pipe.send(Relayed(self._number, report))
            reason = "it was told to stop"
        except errors.RayError as error:
            reason = f"its actor ended: {_first_line(error)}"
        self._pipe.send(Ended(self._number, reason))

    def _start(self) -> bool:
        """Wait until it runs, and start its worker unless it is unfit; return whether it does."""
        ray = self._ray
        try:
            version, place = ray.get(self._actor.hello.remote(), timeout=START_TIMEOUT)
        except ray.exceptions.GetTimeoutError:
            reason = f"the Ray cluster has no {self._resource} free for it; `ray status` shows what uses them"
            self._pipe.send(NotOpened(self._number, reason, is_unfit=False))
            return False
        if version != (own := comparable_version()):
            reason = (
                f"the node {place} has version {version} of sn17-miner, and this miner is {own}: install this version "
                "there, and restart Ray on it"
            )
            self._pipe.send(NotOpened(self._number, reason, is_unfit=True))
            return False
        ray.get(self._actor.start.remote(*self._arguments))
        self._pipe.send(Opened(self._number, place))
        return True

    def _send(self) -> None:
        """Have it carry out one order after the other: Ray keeps no order among calls with large arguments."""
        with contextlib.suppress(self._ray.exceptions.RayError):  # whoever waits for its reports tells
            while (order := self.orders.get()) is not None:
                self._ray.get(self._actor.handle.remote(order))


def _connect(pipe: Pipe, cluster: Cluster, patience: float, is_first: bool) -> None:
    """Connect to a running cluster. Raise OSError if it does not answer or is too small, and what Ray raises."""
    import ray

    # With this value, Ray would start a cluster of its own.
    if os.environ.get("RAY_ADDRESS") == "local":
        del os.environ["RAY_ADDRESS"]
    # From the first failure on, since Ray's own start may take longer on a busy machine.
    deadline: float | None = None
    while True:
        try:
            if not ray.is_initialized():
                _check_port(cluster.address)
                # Ray's log lines are not in the miner's format.
                ray.init(
                    address=cluster.address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR
                )
                # Ray has set a handler of its own.
                ignore_signals()
            if not is_first:
                return
            there = int(ray.cluster_resources().get(cluster.resource, 0))
            if there >= cluster.count:
                return
            raise OSError(f"the cluster has {there} {cluster.resource}s, {cluster.count} are asked for")
        except OSError as error:
            if deadline is None:
                deadline = time.monotonic() + patience
                pipe.send(Waiting(_first_line(error)))
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_DELAY)


def _check_port(address: str) -> None:
    """Raise OSError if nothing answers at an address; Ray itself would try for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), PORT_TIMEOUT).close()
        except OSError as error:
            raise OSError(f"nothing answers at {address}: {error}") from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text, without the class if it says enough."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
