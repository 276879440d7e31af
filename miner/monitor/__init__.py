"""The operator's view of the miner over HTTP: health, metrics, a page with its results, and generation on request."""

from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, GalleryResult
from miner.monitor.local_api import LocalApi
from miner.monitor.metrics import Metrics
from miner.monitor.server import Monitor
from miner.monitor.status import StartingMiner, Status, StatusBoard, StatusSource, ValidatorView, view_validators

__all__ = [
    "Dashboard",
    "Gallery",
    "GalleryResult",
    "LocalApi",
    "Metrics",
    "Monitor",
    "StartingMiner",
    "Status",
    "StatusBoard",
    "StatusSource",
    "ValidatorView",
    "view_validators",
]
