"""The workers that the settings ask for."""

from functools import partial

import torch

from miner.config import MinerSettings
from miner.errors import OperatorError
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import load_phase_models
from miner.gpu.worker import Worker
from miner.gpu.worker_process import process_worker, settings_loader


def build_workers(settings: MinerSettings) -> tuple[Worker, ...]:
    """Return a worker for each device that the settings name: one in this process, several in a process each.

    A CUDA error leaves a whole process without a GPU, so that several in one would be lost together. Raises
    OperatorError if a device is not there.
    """
    devices = choose_devices(settings)
    if len(devices) > 1:
        return tuple(process_worker(device, partial(settings_loader, settings=settings)) for device in devices)
    (device,) = devices
    return (LocalWorker(_name_of(device), partial(load_phase_models, settings=settings, device=device)),)


def choose_devices(settings: MinerSettings) -> tuple[str, ...]:
    """Return the names of the devices to work on. Raise OperatorError if one that `workers` asks for is not there."""
    asked = settings.workers.devices
    if asked == "auto":
        return (settings.device,)
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
