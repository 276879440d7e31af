"""The energy that a GPU takes, by nvidia-smi."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch

_MILLISECONDS = 100


@dataclass
class Energy:
    """Wall time, mean power and energy of what a context did."""

    seconds: float = 0.0
    watts: float = 0.0

    @property
    def joules(self) -> float:
        """The energy of the whole card."""
        return self.seconds * self.watts


@contextmanager
def measure_energy(device: torch.device) -> Iterator[Energy]:
    """Sample a GPU's power ten times a second while the context runs; the result is complete when it ends."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--loop-ms={_MILLISECONDS}", f"--id={uuid}"]
    energy, start = Energy(), time.perf_counter()
    command = ["nvidia-smi", *query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield energy
        energy.seconds = time.perf_counter() - start
        process.terminate()
        output, _ = process.communicate()
    # The last line may be cut off.
    energy.watts = fmean(float(line) for line in output.splitlines()[:-1])
