"""The GPUs: the models in their memory, the workers that drive them, and the plan of what they make."""

from miner.gpu.build import build_workers
from miner.gpu.local_worker import LoadModels, LocalWorker
from miner.gpu.models import (
    LoadedModels,
    PhaseModels,
    RetiredModels,
    choose_phase_compute,
    load_models,
)
from miner.gpu.order import GenerationOrder
from miner.gpu.plan import Claim, choose_claim
from miner.gpu.pool import WorkerPool
from miner.gpu.ray_cluster import ray_workers
from miner.gpu.worker import LoadedPhase, Worker, WorkerState, WorkerStatus
from miner.gpu.worker_process import process_worker

__all__ = [
    "Claim", "GenerationOrder", "LoadModels", "LoadedModels", "LoadedPhase", "LocalWorker", "PhaseModels",
    "RetiredModels", "Worker", "WorkerPool", "WorkerState", "WorkerStatus", "build_workers", "choose_claim",
    "choose_phase_compute", "load_models", "process_worker", "ray_workers",
]  # fmt: skip
