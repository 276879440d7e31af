"""A task from its prompt to the bytes of its result, the same for both transports."""

from miner.tasks.calibration_monitor import CalibrationMonitor
from miner.tasks.decoding import PromptDecoder
from miner.tasks.gate import EXPLORED_SHARE, decide_by_limit
from miner.tasks.generation import best_of_n, make_container, make_request
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Result, Task

__all__ = [
    "EXPLORED_SHARE", "CalibrationMonitor", "PromptDecoder", "Result", "Task", "TaskRunner", "best_of_n",
    "decide_by_limit", "make_container", "make_request",
]  # fmt: skip
