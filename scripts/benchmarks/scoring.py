"""Time one score of a candidate: python scripts/benchmark_scoring.py [--count 384000 ...] [--device cuda]

The scorer has the published size and random weights; the object is a shell of gaussians as wide as a voxel. Prints the
median of 5 scores after a warm-up, of which so much for the 16 pictures, the peak of the GPU's memory, and the time to
write and read back the SPZ that is scored. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from pipeline import QualityScorer, Splats, spz
from pipeline.rendering.cameras import validator_cameras
from pipeline.scoring.quality import normalise_as_validator, render_as_validator
from pipeline.weights.random_init import write_scorer

GIB = 2**30
VOXEL = 1 / 64


def shell(count: int, device: torch.device) -> Splats:
    """An egg's surface of gaussians half a voxel wide."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    splats = Splats(
        means=F.normalize(normal(3)) * torch.tensor([0.3, 0.45, 0.3]),
        quaternions=F.normalize(normal(4)),
        log_scales=torch.tensor(VOXEL / 2).log() + 0.3 * normal(3),
        opacity_logits=normal(),
        f_dc=normal(3),
    )
    return splats.to(device)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds after one more."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def measure(scorer: QualityScorer, count: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """The figures for an object of so many gaussians."""
    splats = shell(count, device)
    shown = normalise_as_validator(splats)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result = {
        "gaussians": count,
        "score_seconds": timed(lambda: scorer(splats), device, repeats),
        "pictures_seconds": timed(lambda: render_as_validator(shown, validator_cameras()), device, repeats),
        "spz_seconds": timed(lambda: spz.verify_round_trip(splats, spz.to_bytes(splats)), device, repeats),
    }
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    return {name: round(value, 4) for name, value in result.items()} | {"peak_gib": round(peak, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[100_000, 384_000, 700_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        write_scorer(Path(folder))
        scorer = QualityScorer.load(folder, device)
    scorer.warm_up()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found = []
    for count in arguments.count:
        found.append(measure(scorer, count, device, arguments.repeats))
        print(", ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    print(json.dumps({"device": name, "torch": torch.__version__, "results": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
