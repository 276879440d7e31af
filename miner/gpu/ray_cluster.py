"""Workers on the nodes of a Ray cluster, as the miner has them."""

import logging
import pickle
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from queue import Empty, SimpleQueue

from miner.config import RaySettings
from miner.errors import OperatorError
from miner.gpu import messages, ray_driver
from miner.gpu.child_process import ChildProcess
from miner.gpu.link import Link, OutOfReach
from miner.gpu.ray_driver import Cluster, FromDriver
from miner.gpu.remote_worker import RemoteWorker
from miner.gpu.worker import LeftOut, Worker
from miner.gpu.worker_process import MakeLoader

log = logging.getLogger(__name__)

# Seconds for which a cluster is waited for when the miner starts, and when it was lost; then the latter is tried again.
FIRST_PATIENCE, PATIENCE = 60.0, 10.0
# Seconds after which a driver that says nothing about an actor hangs.
DRIVER_LIMIT = FIRST_PATIENCE + ray_driver.START_TIMEOUT + 60.0


def ray_workers(settings: RaySettings, make_loader: MakeLoader) -> Sequence[Worker]:
    """Return a worker for each actor that the settings ask for. Raise OperatorError if Ray is not installed."""
    if find_spec("ray") is None:
        raise OperatorError(f"workers.ray needs Ray, which is not installed: {ray_driver.RAY_INSTALL}, or leave it out")
    resource = "GPU" if settings.gpus else "CPU"
    cluster = RayCluster(Cluster(settings.address, "GPU" if settings.gpus else "CPU", settings.count), make_loader)
    names = [f"ray:{number}" for number in range(settings.count)]
    place = f"Ray {resource}, not placed yet"
    return tuple(RemoteWorker(name, partial(cluster.open_link, name), place, is_optional=True) for name in names)


@dataclass(eq=False)
class RayCluster:
    """A Ray cluster, and the process that is its driver as long as there are links to actors."""

    cluster: Cluster
    make_loader: MakeLoader
    was_there: bool = field(default=False, init=False)
    _driver: "Driver | None" = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def open_link(self, device: str) -> "RayLink":
        """Have an actor started, and return the link to it at once. Raises OSError if the system has no process."""
        with self._lock:
            if self._driver is None or self._driver.has_ended:
                self._driver = Driver(self)
            return self._driver.open(device)

    def release(self, driver: "Driver", number: int) -> None:
        """End an actor, and the driver with its last one."""
        with self._lock:
            driver.end(number)

    def explain(self, reason: str) -> Exception:
        """Return the error for a cluster that cannot be used: the operator's mistake unless it was there before."""
        reason = f"the Ray cluster at {self.cluster.address} cannot be used: {reason}"
        if self.was_there:
            return OutOfReach(reason)
        key = self.cluster.resource.lower() + "s"
        return OperatorError(
            f"workers.ray: {reason}. Start Ray on this machine and the others (`ray start`, see the README), check "
            f"workers.ray.address and `ray status`, or lower workers.ray.{key}, which is {self.cluster.count}"
        )


class Driver:
    """One life of the driver's process; a thread takes what it tells to the links."""

    def __init__(self, owner: RayCluster) -> None:
        """Start the process."""
        self._owner = owner
        self._patience = PATIENCE if owner.was_there else FIRST_PATIENCE
        level = logging.getLogger("miner").getEffectiveLevel()
        arguments = (owner.cluster, owner.make_loader, level, self._patience, not owner.was_there)
        self._process = ChildProcess("driver of Ray", ray_driver.drive, *arguments)
        self._mailboxes: dict[int, SimpleQueue[FromDriver]] = {}
        self._number = 0
        self._lock = threading.Lock()
        self.has_ended = False
        threading.Thread(target=self._take_all, name="driver of Ray", daemon=True).start()

    def open(self, device: str) -> "RayLink":
        """Have an actor started; return the link to it."""
        with self._lock:
            self._number += 1
            mailbox = self._mailboxes[self._number] = SimpleQueue()
            if self.has_ended:
                mailbox.put(ray_driver.NotConnected("its driver has ended"))
            self._process.send(ray_driver.Open(self._number))
            return RayLink(self._owner, self, self._number, mailbox)

    def send(self, number: int, order: bytes) -> None:
        """Send a pickled order to an actor."""
        self._process.send(ray_driver.Forward(number, order))

    def end(self, number: int) -> None:
        """End an actor, and this process with its last one."""
        with self._lock:
            if self._mailboxes.pop(number, None) is not None:
                self._process.send(ray_driver.End(number))
            if not self._mailboxes:
                self.has_ended = True
                self._process.kill()

    def kill(self) -> None:
        """End the process, and all links with it."""
        self._process.kill()

    def _take_all(self) -> None:
        ending: FromDriver
        try:
            while not isinstance(message := self._process.receive(None), ray_driver.NotConnected):
                self._take(message)
            ending = message
        except EOFError:
            ending = ray_driver.NotConnected(f"the connection was lost, {self._process.epitaph()}")
        with self._lock:
            self.has_ended = True
            for mailbox in self._mailboxes.values():
                mailbox.put(ending)
        self._process.close()

    def _take(self, message: FromDriver) -> None:
        address = self._owner.cluster.address
        match message:
            case ray_driver.Waiting(reason) if not self._owner.was_there:
                log.warning("Waiting up to %.0f s for the Ray cluster at %s: %s", self._patience, address, reason)
            case ray_driver.Connected(is_authenticated):
                log.info("Connected to the Ray cluster at %s", address)
                self._owner.was_there = True
                if not is_authenticated:
                    log.warning(
                        "The Ray cluster asks for no token: whoever reaches its ports can run programs on all of its "
                        "machines. Set RAY_AUTH_MODE=token for Ray and the miner (see the README)"
                    )
            case (
                ray_driver.Opened(number)
                | ray_driver.NotOpened(number)
                | ray_driver.Relayed(number)
                | (ray_driver.Ended(number))
            ):
                with self._lock:
                    if number in self._mailboxes:
                        self._mailboxes[number].put(message)


class RayLink(Link):
    """The link to an actor, from before it has a place on."""

    def __init__(self, owner: RayCluster, driver: Driver, number: int, mailbox: "SimpleQueue[FromDriver]") -> None:
        """Take the number of the actor, and where the driver puts what it tells of it."""
        self._owner = owner
        self._driver = driver
        self._number = number
        self._mailbox = mailbox
        self._is_open = False
        self._opened_by = time.monotonic() + DRIVER_LIMIT
        self._epitaph = ""

    def send(self, order: messages.Order) -> None:
        """Send an order; it waits for the actor to start, but for the one to stop."""
        if isinstance(order, messages.Stop) and not self._is_open:
            self.kill()
        self._driver.send(self._number, pickle.dumps(order, pickle.HIGHEST_PROTOCOL))

    def receive(self, timeout: float) -> messages.Report | None:
        """Return the next report, None if there is none in time; the first one is Placed.

        Raises EOFError once the actor has ended, OutOfReach if there is no cluster or no place in it, and OperatorError
        if only the operator can change that.
        """
        try:
            message = self._mailbox.get(timeout=timeout)
        except Empty:
            if not self._is_open and time.monotonic() > self._opened_by:
                self._driver.kill()
            return None
        match message:
            case ray_driver.Relayed(_, report):
                content: messages.Report = pickle.loads(report)  # noqa: S301 - from our own actor
                return content
            case ray_driver.Opened(_, place):
                self._is_open = True
                return messages.Placed(place)
            case ray_driver.NotOpened(_, reason, is_unfit):
                raise LeftOut(reason) if is_unfit else OutOfReach(reason)
            case ray_driver.NotConnected(reason) if not self._is_open:
                raise self._owner.explain(reason)
            case ray_driver.NotConnected(reason) | ray_driver.Ended(_, reason):
                self._epitaph = reason
        raise EOFError

    def kill(self) -> None:
        """End the actor."""
        self._mailbox.put(ray_driver.Ended(self._number, "it was ended"))

    def close(self) -> None:
        """End the actor, and free what it held."""
        self._owner.release(self._driver, self._number)

    def epitaph(self) -> str:
        """Return how it ended."""
        return self._epitaph
