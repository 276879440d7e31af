"""The operator's view of the miner over HTTP: health, metrics, a page with its results, and generation on request."""

from miner.monitor.gallery import Gallery
from miner.monitor.local_api import LocalApi
from miner.monitor.observability import Observability
from miner.monitor.server import Monitor
from miner.monitor.status import StartingMiner, Status, StatusBoard, view_validators

__all__ = [
    "Gallery", "LocalApi", "Monitor", "Observability", "StartingMiner", "Status", "StatusBoard", "view_validators",
]  # fmt: skip
