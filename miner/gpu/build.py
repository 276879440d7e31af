"""The workers that the settings ask for."""

from functools import partial

from miner.config import MinerSettings
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import load_phase_models
from miner.gpu.worker import Worker


def build_workers(settings: MinerSettings) -> tuple[Worker, ...]:
    """Return a worker for each device that the settings name."""
    device = settings.device
    return (LocalWorker(device, partial(load_phase_models, settings=settings, device=device)),)
