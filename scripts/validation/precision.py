"""How far half precision and the fused kernels are from float32, at full size on a GPU.

    python scripts/proofs/precision.py [--checkpoint image-large] [--voxels 12000]

Compares single velocities and whole sampling runs of phase 3, and two runs with the same seed. Deviations are the
largest difference over the largest value of the float32 result, and the norm of the difference over its norm. The
last line is JSON. Recorded results: precision.md beside this file.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import ComputeConfig, choose_compute
from pipeline.params import NEGATIVE
from pipeline.weights import random_init as random_checkpoint
from scripts.benchmarks.generation import Subject, phase_params

TIMES = (1.0, 0.75, 0.25)
# Precision, kernels, 8-bit products, guided steps that reuse a velocity.
WAYS: tuple[tuple[Any, Any, bool, int], ...] = (
    ("float16", "plain", False, 0),
    ("float16", "fused", False, 0),
    ("bfloat16", "plain", False, 0),
    ("bfloat16", "fused", False, 0),
    ("float16", "fused", True, 0),
    ("float16", "fused", False, 1),
    ("float16", "fused", True, 1),
)


def results(directory: Path, compute: ComputeConfig, voxels: int, reuse: int = 0) -> dict[str, Tensor]:
    """Velocities at a few times, and the samples of whole runs, in float32 on the CPU."""
    torch.manual_seed(0)
    subject = Subject(directory, compute, phase_params("phase3", reuse), voxels)
    flows, grid = subject.engine.flows, subject.grid
    x = torch.randn(1, *subject.engine.structure_shape, generator=torch.Generator().manual_seed(1)).to(compute.device)
    y = torch.randn(len(grid), subject.engine.latent_channels, generator=torch.Generator().manual_seed(2))
    found: dict[str, Tensor] = {}
    for name, velocities, noise in (
        ("structure", flows.prepare_structure(TIMES, subject.conditions), x),
        ("latent", flows.prepare_latents(TIMES, subject.conditions, grid), y.to(compute.device)),
    ):
        for step, t in enumerate(TIMES):
            for context, v in zip(("tokens", "negative"), velocities(noise, step, (0, NEGATIVE)), strict=True):
                found[f"{name} velocity at {t}, {context}"] = v.cpu()
    for number in ("first", "second")[: 1 if compute.dtype == torch.float32 else 2]:
        torch.manual_seed(3)
        found[f"structure sample, {number} run"] = subject.structure().cpu()
        found[f"latent sample, {number} run"] = subject.latents(grid).cpu()
    return found


def deviation(ours: Tensor, reference: Tensor) -> dict[str, float]:
    """Largest and root-mean-square difference, relative to the reference's."""
    difference = ours.double() - reference.double()
    return {
        "max": float(difference.abs().max() / reference.double().abs().max()),
        "rms": float(difference.norm() / reference.double().norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=random_checkpoint.FLOWS, default="image-large", help="of that size")
    parser.add_argument("--voxels", type=int, default=12000)
    arguments = parser.parse_args()
    name = arguments.checkpoint
    print(f"phase 3: {phase_params('phase3')}")
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "checkpoint": name}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        random_checkpoint.write(name, Path(folder), torch.float16, "cuda")
        reference = results(Path(folder), choose_compute("cuda", "float32"), arguments.voxels)
        for precision, kernels, fp8, reuse in WAYS:
            gc.collect()
            torch.cuda.empty_cache()
            ours = results(Path(folder), choose_compute("cuda", precision, kernels, fp8=fp8), arguments.voxels, reuse)
            way = f"{precision} {kernels}" + fp8 * " fp8" + bool(reuse) * f" reuse {reuse}"
            report[way] = {key: deviation(ours[key], expected) for key, expected in reference.items()}
            report[way] |= {
                f"{stage} sample, second run against first": deviation(
                    ours[f"{stage} sample, second run"], ours[f"{stage} sample, first run"]
                )
                for stage in ("structure", "latent")
            }
            for key, figures in report[way].items():
                print(f"{way:28} {key:45} max {figures['max']:.2e} rms {figures['rms']:.2e}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
