"""Timing on the CPU and on CUDA devices, shared by all benchmarks."""

import time
from collections.abc import Callable
from statistics import median

import torch

GIB = 2**30


def elapsed(work: Callable[[], object]) -> float:
    """Return the wall time in seconds of one run, with all CUDA work before and in it finished."""
    _synchronise()
    start = time.perf_counter()
    work()
    _synchronise()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median wall time in seconds of `repeats` runs after two warm-up runs."""
    return median([elapsed(work) for _ in range(repeats + 2)][2:])


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
