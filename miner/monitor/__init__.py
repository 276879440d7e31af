"""What people, process managers and Prometheus see of the miner, over HTTP."""

from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, GalleryResult, gallery_result
from miner.monitor.local_api import LocalApi
from miner.monitor.metrics import Metrics
from miner.monitor.server import Monitor
from miner.monitor.status import Status, ValidatorView, installed_version, validator_views

__all__ = [
    "Dashboard",
    "Gallery",
    "GalleryResult",
    "LocalApi",
    "Metrics",
    "Monitor",
    "Status",
    "ValidatorView",
    "gallery_result",
    "installed_version",
    "validator_views",
]
