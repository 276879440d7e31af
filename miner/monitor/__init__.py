"""What people, process managers and Prometheus see of the miner, over HTTP."""

from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, Made, made
from miner.monitor.generate import GenerateEndpoint
from miner.monitor.metrics import Metrics
from miner.monitor.server import Monitor
from miner.monitor.status import GpuMemory, Status, ValidatorView, gpu_memory, installed_version, validator_views

__all__ = [
    "Dashboard",
    "Gallery",
    "GenerateEndpoint",
    "GpuMemory",
    "Made",
    "Metrics",
    "Monitor",
    "Status",
    "ValidatorView",
    "gpu_memory",
    "installed_version",
    "made",
    "validator_views",
]
