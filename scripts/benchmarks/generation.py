"""Measure every stage of generation on a GPU, against the measured ceiling of its matrix products.

    python -m scripts.benchmarks.generation --checkpoint random:image-large --phase phase3 --voxels 12000
    python -m scripts.benchmarks.generation --checkpoint random:image-large --kernels plain
    python -m scripts.benchmarks.generation --checkpoint DIR --candidates --score

random:NAME first writes a checkpoint of the public one's size with random weights. A spherical shell of voxels replaces
the structure, since random weights make none. The figures are medians after a warm-up, with the device synchronised;
the last line is JSON. --candidates counts whole candidates that the miner's worker makes, with the energy of each as
nvidia-smi reads the card's power; --score writes each as an SPZ file, verifies it, and scores what it holds with all
parts of the score, of the published sizes. Needs neither bittensor nor rembg.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline import SamplerParams, choose_compute, ply
from pipeline.sampling.engine import WARM_UP_PARAMS
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from scripts.benchmarks import operations
from scripts.benchmarks.candidate_rate import SECONDS, measure_candidates
from scripts.benchmarks.scoring import load_scorer
from scripts.benchmarks.timing import GIB, elapsed, median_seconds
from scripts.benchmarks.workload import GenerationWorkload, checkpoint_directory, phase_params, shell_grid
from scripts.loaded_checkpoint import LoadedCheckpoint

# Of the structure's size.
NEW_SIZES = (0.53, 0.83, 1.31)
OTHER_PHASE = SamplerParams(30, 7.5, (0.5, 1.0), 3.0), SamplerParams(20, 3.0, (0.5, 1.0), 3.0)


def process_age() -> float:
    """Return the seconds since this process was started, imports included (Linux)."""
    start_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


def measure_ceiling(dtype: torch.dtype) -> float:
    """Return the operations per second of an 8192^3 matrix product of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / median_seconds(lambda: a @ b, 20)


def measure_stages(workload: GenerationWorkload, repeats: int) -> dict[str, tuple[float, float | None]]:
    """Return median seconds and operations by stage; None for stages that are not matrix products."""
    engine, grid = workload.engine, workload.grid
    networks, context = engine.checkpoint, workload.conditions.positive[0]
    assert context is not None
    tokens, zero = context.shape[1], workload.conditions.negative is None
    flow, params = networks.structure_flow, workload.structure_params
    structure_count = operations.structure_sampling(flow, params, tokens, zero_negative=zero)
    latent_flow, params = networks.latent_flow, workload.latent_params
    latent_count = operations.latent_sampling(latent_flow, params, grid, tokens, zero_negative=zero)
    decoder_count = operations.gaussian_decoding(networks.gaussian_decoder, grid)
    sample, latents = workload.sample_structure(), workload.sample_latents(grid)
    splats = engine.decode_latents(latents, grid)
    stages: dict[str, tuple[Callable[[], object], float | None]] = {
        "conditioning": (lambda: workload.checkpoint.encode(workload.prompt), None),
        "structure sampling": (workload.sample_structure, structure_count),
        "structure decoding": (lambda: occupied_voxels(engine.decode_structure(sample)), None),
        "latent sampling": (lambda: workload.sample_latents(grid), latent_count),
        "gaussian decoding": (lambda: engine.decode_latents(latents, VoxelGrid(grid.coords)), decoder_count),
        "PLY bytes": (lambda: ply.to_bytes(splats), None),
    }
    return {name: (median_seconds(run, repeats), count) for name, (run, count) in stages.items()}


def first_to_last(workload: GenerationWorkload, grid: VoxelGrid, runs: int) -> float:
    """Return the ratio of the first candidate's time to that of the last of `runs`."""
    seconds = [elapsed(lambda: workload.make_candidate(grid)) for _ in range(runs)]
    return seconds[0] / seconds[-1]


@torch.inference_mode()
def measure(arguments: argparse.Namespace, directory: Path, write_seconds: float) -> dict[str, Any]:
    """Return all figures of one run; `write_seconds` were spent on writing the checkpoint."""
    compute = choose_compute("cuda", arguments.precision, arguments.kernels, fp8=arguments.fp8)
    # Before all that takes long, since a package may be missing. Its time and memory are no part of the figures.
    start = time.perf_counter()
    scorer = load_scorer(compute.device) if arguments.score else None
    scorer_seconds, scorer_memory = time.perf_counter() - start, torch.cuda.memory_allocated()
    torch.manual_seed(0)
    start = time.perf_counter()
    checkpoint = LoadedCheckpoint.load(directory, compute)
    torch.cuda.synchronize()
    load_seconds = time.perf_counter() - start
    workload = GenerationWorkload.prepare(checkpoint, phase_params(arguments.phase, arguments.reuse), arguments.voxels)
    loaded_memory = torch.cuda.memory_allocated() - scorer_memory
    # As the miner warms up: an object in few steps, then all sizes.
    few = replace(workload, structure_params=WARM_UP_PARAMS, latent_params=WARM_UP_PARAMS)
    few.make_candidate(workload.grid)
    for _ in workload.engine.warm_up_steps(workload.conditions):
        pass
    torch.cuda.synchronize()
    ready_seconds = process_age() - write_seconds - scorer_seconds
    ceiling = measure_ceiling(compute.dtype)
    torch.cuda.reset_peak_memory_stats()
    stages = measure_stages(workload, arguments.repeats)
    peak, reserved = torch.cuda.max_memory_allocated() - scorer_memory, torch.cuda.max_memory_reserved()
    result: dict[str, Any] = {
        "command": " ".join(sys.argv), "device": torch.cuda.get_device_name(), "compute": compute.reason,
        "torch": torch.__version__, "python": platform.python_version(), "voxels": len(workload.grid),
        "load_seconds": round(load_seconds, 2), "start_to_ready_seconds": round(ready_seconds, 2),
        "loaded_gib": round(loaded_memory / GIB, 3), "peak_gib": round(peak / GIB, 3),
        "reserved_gib": round(reserved / GIB, 3), "ceiling_tflops": round(ceiling / 1e12, 1),
        "milliseconds": {name: round(1e3 * seconds, 2) for name, (seconds, _) in stages.items()},
        "total_milliseconds": round(1e3 * sum(seconds for seconds, _ in stages.values()), 1),
        "tera_operations": {name: round(count / 1e12, 2) for name, (_, count) in stages.items() if count},
        "share_of_ceiling": {
            name: round(count / seconds / ceiling, 3) for name, (seconds, count) in stages.items() if count
        },
    }  # fmt: skip
    if arguments.candidates:
        result["candidates"] = measure_candidates(workload, scorer, arguments.phase)
    if arguments.new_sizes:
        grids = [shell_grid(round(arguments.voxels * factor), compute.device) for factor in NEW_SIZES]
        result["first_against_tenth"] = [round(first_to_last(workload, grid, 10), 3) for grid in grids]
        structure, latents = OTHER_PHASE
        other = replace(workload, structure_params=structure, latent_params=latents)
        result["another_phase"] = round(first_to_last(other, other.grid, 3), 3)
    return result


def show(result: dict[str, Any]) -> None:
    """Print a table for people."""
    print(f"{result['device']}, torch {result['torch']}, {result['compute']}")
    for name, milliseconds in result["milliseconds"].items():
        line = f"{name:20} {milliseconds:9.2f} ms"
        if name in result["tera_operations"]:
            line += f" {result['tera_operations'][name]:8.1f} T  {100 * result['share_of_ceiling'][name]:5.1f} %"
        print(line)
    print(f"{'sum':20} {result['total_milliseconds']:9.2f} ms; peak {result['peak_gib']} GiB")
    if "candidates" in result:
        print("candidates in {} s: {count}; {seconds_each} s and {joules_each} J each, at {watts} W".format(
            SECONDS, **result["candidates"]
        ))  # fmt: skip


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="random:image-large", help="random:NAME, a directory or an id")
    parser.add_argument("--phase", default="phase3")
    parser.add_argument("--voxels", type=int, default=12000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernels", choices=["auto", "plain", "fused"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "float16", "bfloat16"], default="auto")
    parser.add_argument("--fp8", action="store_true", help="acceleration.fp8 of phases")
    parser.add_argument("--reuse", type=int, default=0, help="acceleration.reuse of phases")
    parser.add_argument("--new-sizes", action="store_true", help="compare first runs of new sizes and phases, too")
    parser.add_argument("--candidates", action="store_true", help=f"count those made in {SECONDS:.0f} s")
    parser.add_argument("--score", action="store_true", help="with --candidates: write, verify and score each, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    start = time.perf_counter()
    with checkpoint_directory(arguments.checkpoint) as directory:
        result = measure(arguments, directory, time.perf_counter() - start)
    show(result)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
