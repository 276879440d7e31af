"""The power that a GPU takes, by nvidia-smi."""

import subprocess
from collections.abc import Callable
from statistics import fmean
from typing import TypeVar

import torch

_MILLISECONDS = 100
Outcome = TypeVar("Outcome")


def with_mean_power(work: Callable[[], Outcome], device: torch.device) -> tuple[Outcome, float]:
    """Return the outcome of work that takes seconds, and the mean power of the whole card meanwhile, in watts."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--loop-ms={_MILLISECONDS}", f"--id={uuid}"]
    command = ["nvidia-smi", *query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            outcome = work()
        finally:
            process.terminate()
        output, _ = process.communicate()
    # The last line may be cut off.
    return outcome, fmean(float(line) for line in output.splitlines()[:-1])
