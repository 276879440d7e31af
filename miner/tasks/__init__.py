"""A task from its prompt to the bytes of its result, the same for both transports."""

from miner.tasks.decoding import PromptDecoder
from miner.tasks.generation import best_of_n, gate_objection, make_request
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Result, Task

__all__ = ["PromptDecoder", "Result", "Task", "TaskRunner", "best_of_n", "gate_objection", "make_request"]
