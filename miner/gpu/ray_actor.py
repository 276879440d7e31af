"""What runs on a node of a Ray cluster: a worker that takes its orders as bytes, since versions may differ."""

import pickle
from queue import SimpleQueue

from miner.gpu import messages
from miner.gpu.local_worker import LocalWorker
from miner.gpu.worker_process import MakeLoader
from miner.gpu.worker_server import WorkerServer, log_to
from miner.runtime import code_version, return_large_pieces


class RayActor:
    """Drives the device that Ray has given to this process.

    `receive` waits for reports beside the other methods, so that it takes two threads.
    """

    def __init__(self) -> None:
        """Wait for `start`."""
        self._reports: SimpleQueue[bytes | None] = SimpleQueue()
        self._server: WorkerServer | None = None

    def hello(self) -> tuple[str, str]:
        """Return the version of this package here, and the node's address."""
        import ray

        return comparable_version(), ray.util.get_node_ip_address()

    def start(self, device: str, make_loader: bytes, level: int) -> None:
        """Start the worker; `make_loader` is a pickled MakeLoader, and `level` the least that is logged."""
        return_large_pieces()
        make: MakeLoader = pickle.loads(make_loader)  # noqa: S301 - from the miner
        log_to(self._report, level)
        self._server = WorkerServer(LocalWorker(device, make(device)), self._report)

    def handle(self, order: bytes) -> None:
        """Carry out a pickled order; call this for one after the other."""
        content: messages.Order = pickle.loads(order)  # noqa: S301 - from the miner
        assert self._server is not None, "it was started"
        self._server.handle(content)
        if isinstance(content, messages.Stop):
            self._reports.put(None)

    def receive(self) -> bytes | None:
        """Wait for the next report, and return it pickled; None after the order to stop."""
        return self._reports.get()

    def _report(self, report: messages.Report) -> None:
        self._reports.put(pickle.dumps(report, pickle.HIGHEST_PROTOCOL))


def comparable_version() -> str:
    """Return the version of the code, whether or not files of its checkout were changed: settings are, too."""
    return code_version().removesuffix("-dirty")
