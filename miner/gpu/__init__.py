"""The GPU: the models in its memory, and the one thread that works on it."""

from miner.gpu.models import (
    LoadedModels,
    RetiredModels,
    choose_phase_compute,
    free_memory,
    load_and_warm_up,
    load_models,
)
from miner.gpu.scheduler import Scheduler, Urgency, most_urgent

__all__ = [
    "LoadedModels", "RetiredModels", "Scheduler", "Urgency", "choose_phase_compute", "free_memory", "load_and_warm_up",
    "load_models", "most_urgent",
]  # fmt: skip
