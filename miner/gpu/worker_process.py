"""A child process that drives one device: how it is started, and what runs in it."""

import logging
import os
from collections.abc import Callable
from functools import partial

from miner.config import MinerSettings
from miner.gpu import messages
from miner.gpu.child_process import ChildProcess, Pipe
from miner.gpu.link import Link
from miner.gpu.local_worker import LoadModels, LocalWorker
from miner.gpu.models import load_phase_models
from miner.gpu.remote_worker import RemoteWorker
from miner.gpu.worker_server import WorkerServer, log_to

MakeLoader = Callable[[str], LoadModels]
"""Returns, in the child, the function that loads the models of a phase onto a device; it must be picklable."""


def process_worker(device: str, make_loader: MakeLoader) -> RemoteWorker:
    """Return a worker that is a child process, and another one whenever that is lost."""
    return RemoteWorker(device, partial(ProcessLink, device, make_loader), "this machine")


def settings_loader(device: str, settings: MinerSettings) -> LoadModels:
    """Return the function that loads the models of a phase as the settings say."""
    return partial(load_phase_models, settings=settings, device=device)


class ProcessLink(ChildProcess, Link):
    """A child process that sees no other GPU than its own."""

    def __init__(self, device: str, make_loader: MakeLoader) -> None:
        """Start the process. Raises OSError if the system has none to give."""
        level = logging.getLogger("miner").getEffectiveLevel()
        super().__init__(f"worker {device}", _serve, device, make_loader, level)


def _serve(pipe: Pipe, device: str, make_loader: MakeLoader, level: int) -> None:
    """Carry out orders until the pipe ends, be it with the miner, or the miner says so."""
    log_to(pipe.send, level)
    worker = LocalWorker(device, make_loader(_hide_others(device)))
    server = WorkerServer(worker, pipe.send)
    while True:
        order: messages.Order = pipe.receive()
        server.handle(order)
        if isinstance(order, messages.Stop):
            return


def _hide_others(device: str) -> str:
    """Make a GPU the only one of this process, before CUDA is used; return its name from then on."""
    if not device.startswith("cuda"):
        return device
    index = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index].strip() if visible else str(index)
    return "cuda"
