"""Measure what Ray adds to a candidate with a file of full size, on the CPUs of a running cluster.

    ray start --head --num-cpus 1 --num-gpus 0
    python -m scripts.validation.ray_overhead [--address auto] [--gaussians 400000] [--candidates 40]

One worker after the other makes candidates one by one: a child process of this machine, and an actor of the cluster.
Their object is there already; packing it and checking the file is what a candidate takes. Measured is the time from the
order to the result in this process, less the seconds that the candidate took where it was made; and for the actor, the
CPU time of a candidate in this process and the driver's. The last line is JSON.
Recorded results: ray_overhead.md beside this file.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from miner.config import RaySettings, shipped_config
from miner.config.phase_files import load_phase
from miner.gpu import Worker, process_worker, ray_workers
from pipeline import Attempt, GenerationJob, Request, SamplerParams, parse_text_prompt
from scripts.validation.large_results import load_large_results

TIMEOUT = 300.0
WARM_UP = 5
PARAMS = SamplerParams(steps=1, cfg_strength=0.0)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that run."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure(worker: Worker, candidates: int) -> tuple[int, list[float], float]:
    """Return the bytes of a result, and for each candidate the milliseconds that it took beside its making.

    The last value is the mean of the milliseconds of CPU time of a candidate, here and in the children.
    """
    try:
        worker.load("models", load_phase("demo", shipped_config() / "miner.yaml")).result(TIMEOUT)
        job = GenerationJob("task", Request(parse_text_prompt("a red chair"), 1, PARAMS, PARAMS))
        size, overheads = 0, []
        used = 0.0
        for seed in range(WARM_UP + candidates):
            if seed == WARM_UP:
                used = cpu_seconds()
            while not worker.is_free:
                time.sleep(0.005)
            began = time.perf_counter()
            finished = worker.make("models", job, Attempt(seed)).result(TIMEOUT)
            overheads.append(1e3 * (time.perf_counter() - began - finished.candidate.seconds))
            assert finished.asset is not None, finished.candidate.problem
            size = len(finished.asset.data)
        return size, overheads[WARM_UP:], 1e3 * (cpu_seconds() - used) / candidates
    finally:
        worker.stop(TIMEOUT)


def summarise(overheads: Sequence[float]) -> dict[str, float]:
    """Return the median, the 90th percentile and the largest."""
    ordered = sorted(overheads)
    tenth = ordered[int(0.9 * len(ordered))]
    return {"median": round(statistics.median(ordered), 1), "p90": round(tenth, 1), "max": round(ordered[-1], 1)}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="auto")
    parser.add_argument("--gaussians", type=int, default=400_000)
    parser.add_argument("--candidates", type=int, default=40)
    arguments = parser.parse_args()
    loader = partial(load_large_results, gaussians=arguments.gaussians)
    size, in_process, _ = measure(process_worker("cpu", loader), arguments.candidates)
    (actor,) = ray_workers(RaySettings(address=arguments.address, cpus=1), loader)
    _, through_ray, cpu = measure(actor, arguments.candidates)
    summary = {"bytes": size, "process_ms": summarise(in_process), "ray_ms": summarise(through_ray), "cpu_ms": cpu}
    for name, overheads in (("a child process", in_process), ("an actor of Ray", through_ray)):
        print(f"{name} adds to a candidate of {size / 1e6:.1f} MB, in milliseconds: {summarise(overheads)}")
    print(f"milliseconds of CPU time of a candidate, in the miner and its driver: {cpu:.1f}")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
