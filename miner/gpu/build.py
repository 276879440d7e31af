"""The workers that the settings ask for."""

from collections.abc import Sequence
from functools import partial

import torch

from miner.config import MinerSettings
from miner.errors import OperatorError
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import load_phase_models
from miner.gpu.ray_cluster import ray_workers
from miner.gpu.worker import Worker
from miner.gpu.worker_process import process_worker, settings_loader


def build_workers(settings: MinerSettings) -> tuple[Worker, ...]:
    """Return a worker for each device that the settings name: one in this process, several in a process each.

    A CUDA error leaves a whole process without a GPU, so that several in one would be lost together, and one beside a
    Ray cluster for good. Raises OperatorError if a device is not there, or Ray is not installed.
    """
    devices, ray = choose_devices(settings), settings.workers.ray
    if ray is not None or len(devices) > 1:
        make_loader = partial(settings_loader, settings=settings)
        far: Sequence[Worker] = ray_workers(ray, make_loader) if ray is not None else ()
        return (*(process_worker(device, make_loader) for device in devices), *far)
    (device,) = devices
    return (LocalWorker(_name_of(device), partial(load_phase_models, settings=settings, device=device)),)


def choose_devices(settings: MinerSettings) -> tuple[str, ...]:
    """Return the names of the devices of this machine to work on, none if a Ray cluster is to do it all.

    Raise OperatorError if one that `workers` asks for is not there.
    """
    asked = settings.workers.devices
    if asked == "auto":
        return () if settings.workers.ray is not None else (settings.device,)
    count = torch.cuda.device_count()
    there = tuple(f"cuda:{index}" for index in range(count))
    if asked == "all":
        if not there:
            raise OperatorError("workers.devices is all, but torch sees no CUDA device: check nvidia-smi, or set auto")
        return there
    for name in asked:
        if name != "cpu" and name not in there:
            raise OperatorError(
                f"workers.devices names {name}, but torch sees {', '.join(there) or 'no CUDA device'}: check "
                "nvidia-smi and CUDA_VISIBLE_DEVICES, or leave it out"
            )
    return tuple(asked)


def _name_of(device: str) -> str:
    """Return the name by which a device is told."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if device == "cuda" else device
