"""Measure how far half precision and the fused kernels are from float32, at full size on a GPU.

    python -m scripts.validation.precision

Compares single velocities and whole samplings of phase 3, and two samplings with the same seed. Deviations are the
largest difference over the largest value of the float32 result, and the norm of the difference over its norm. The last
line is JSON. Needs neither bittensor nor rembg. Recorded results: precision.md beside this file.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import ComputeConfig, choose_compute
from pipeline.compute import Kernels, Precision
from pipeline.params import NEGATIVE
from pipeline.weights import random_init
from scripts.benchmarks.workload import GenerationWorkload, phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint

TIMES = (1.0, 0.75, 0.25)
RUNS = ("first", "second")
CHECKPOINT, VOXELS = "image-large", 12_000
# Name in the record -> precision, kernels, fp8, and the number of guided steps that reuse a velocity.
VARIANTS: dict[str, tuple[Precision, Kernels, bool, int]] = {
    "float16 plain": ("float16", "plain", False, 0),
    "float16 fused": ("float16", "fused", False, 0),
    "bfloat16 plain": ("bfloat16", "plain", False, 0),
    "bfloat16 fused": ("bfloat16", "fused", False, 0),
    "float16 fused fp8": ("float16", "fused", True, 0),
    "float16 fused reuse 1": ("float16", "fused", False, 1),
    "float16 fused fp8 reuse 1": ("float16", "fused", True, 1),
}


def compute_results(directory: Path, compute: ComputeConfig, reuse: int = 0) -> dict[str, Tensor]:
    """Return velocities at a few times and the samples of whole runs, in float32 on the CPU."""
    torch.manual_seed(0)
    checkpoint = LoadedCheckpoint.load(directory, compute)
    workload = GenerationWorkload.prepare(checkpoint, phase_params("phase3", reuse), VOXELS)
    engine, grid, conditions = workload.engine, workload.grid, workload.conditions
    x = torch.randn(1, *engine.structure_shape, generator=torch.Generator().manual_seed(1)).to(compute.device)
    y = torch.randn(len(grid), engine.latent_channels, generator=torch.Generator().manual_seed(2)).to(compute.device)
    results: dict[str, Tensor] = {}
    for stage, velocities, noise in (
        ("structure", engine.flows.prepare_structure(TIMES, conditions), x),
        ("latent", engine.flows.prepare_latents(TIMES, conditions, grid), y),
    ):
        for step, t in enumerate(TIMES):
            both = velocities(noise, step, (0, NEGATIVE))
            for context, velocity in zip(("tokens", "negative"), both, strict=True):
                results[f"{stage} velocity at {t}, {context}"] = velocity.cpu()
    for run in RUNS[: 1 if compute.dtype == torch.float32 else 2]:
        torch.manual_seed(3)
        results[f"structure sample, {run} run"] = workload.sample_structure().cpu()
        results[f"latent sample, {run} run"] = workload.sample_latents(grid).cpu()
    return results


def deviation(result: Tensor, reference: Tensor) -> dict[str, float]:
    """Return the largest and the root-mean-square difference, relative to the reference's."""
    difference = result.double() - reference.double()
    return {
        "max": float(difference.abs().max() / reference.double().abs().max()),
        "rms": float(difference.norm() / reference.double().norm()),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(f"phase 3: {phase_params('phase3')}")
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        directory = Path(folder)
        random_init.write_checkpoint(CHECKPOINT, directory, "cuda")
        reference = compute_results(directory, choose_compute("cuda", "float32"))
        for variant, (precision, kernels, fp8, reuse) in VARIANTS.items():
            gc.collect()
            torch.cuda.empty_cache()
            compute = choose_compute("cuda", precision, kernels, fp8=fp8)
            results = compute_results(directory, compute, reuse)
            deviations = {key: deviation(results[key], expected) for key, expected in reference.items()}
            for stage in ("structure", "latent"):
                first, second = (results[f"{stage} sample, {run} run"] for run in RUNS)
                deviations[f"{stage} sample, second run against first"] = deviation(second, first)
            for key, figures in deviations.items():
                print(f"{variant:28} {key:45} max {figures['max']:.2e} rms {figures['rms']:.2e}")
            report[variant] = deviations
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
