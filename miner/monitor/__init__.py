"""What people, process managers and Prometheus see of the miner, over HTTP."""

from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, Made, made
from miner.monitor.generate import GenerateEndpoint
from miner.monitor.metrics import Metrics
from miner.monitor.server import Monitor
from miner.monitor.status import Status, ValidatorView, installed_version, validator_views

__all__ = [
    "Dashboard",
    "Gallery",
    "GenerateEndpoint",
    "Made",
    "Metrics",
    "Monitor",
    "Status",
    "ValidatorView",
    "installed_version",
    "made",
    "validator_views",
]
