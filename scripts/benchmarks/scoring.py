"""Measure the time of scoring one candidate.

    python -m scripts.benchmarks.scoring [--count 384000 ...] [--device cuda]

The scorer has the published size and random weights; the object is a shell of gaussians as wide as a voxel. Prints the
median time of a score after two warm-ups, the part of it that the 16 views take, the time to encode and verify the SPZ
that is scored, and the peak of the GPU's memory. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pipeline import QualityScorer, Splats, spz
from pipeline.rendering.cameras import validator_cameras
from pipeline.scoring.quality import normalise_as_validator, render_as_validator
from pipeline.weights.random_init import write_scorer
from scripts.benchmarks.timing import GIB, device_name, median_seconds

VOXEL = 1 / 64


def egg_shell(count: int, device: torch.device) -> Splats:
    """Return gaussians half a voxel wide on the surface of an egg."""
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


def measure(scorer: QualityScorer, count: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Return the figures for an object of `count` gaussians."""
    splats = egg_shell(count, device)
    visible = normalise_as_validator(splats)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = {
        "score_seconds": median_seconds(lambda: scorer(splats), repeats),
        "pictures_seconds": median_seconds(lambda: render_as_validator(visible, validator_cameras()), repeats),
        "spz_seconds": median_seconds(lambda: spz.verify_round_trip(splats, spz.to_bytes(splats)), repeats),
    }
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    rounded = {name: round(value, 4) for name, value in seconds.items()}
    return {"gaussians": count, **rounded, "peak_gib": round(peak, 2)}


def main() -> int:
    """Run the command line."""
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
    results = []
    for count in arguments.count:
        results.append(measure(scorer, count, device, arguments.repeats))
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json.dumps({"device": device_name(device), "torch": torch.__version__, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
