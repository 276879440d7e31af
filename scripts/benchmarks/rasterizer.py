"""Compare the rasterizer in Triton with the one in torch on the 16 views that a validator renders.

    python -m scripts.benchmarks.rasterizer [FILE ...] [--count 384000 1000000] [--repeats 5]

Draws splat files and shells of gaussians as wide as a voxel, normalised as a validator does, on a GPU with Triton.
Prints the median time of each rasterizer after two warm-ups, the memory that it needs besides the splats (the pictures
included), the largest difference of a colour or an alpha, and the number of pixels that differ by more than 1/255. The
last line is JSON.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import Splats
from pipeline.compute import triton_obstacle
from pipeline.rendering import torch_rasterizer
from pipeline.rendering.cameras import validator_cameras
from pipeline.scoring.views import normalise_as_validator
from scripts.benchmarks.scoring import egg_shell, read_splats
from scripts.benchmarks.timing import GIB, device_name, median_seconds


def measure(splats: Splats, repeats: int) -> dict[str, Any]:
    """Return the figures for splats on a GPU."""
    # Triton is not installed everywhere.
    from pipeline.rendering import triton_rasterizer

    splats = normalise_as_validator(splats)
    figures: dict[str, Any] = {"gaussians": len(splats)}
    views: list[torch.Tensor] = []
    for name, draw in {"torch": torch_rasterizer.composite_views, "triton": triton_rasterizer.composite_views}.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        views.append(draw(splats, validator_cameras()).clamp(0, 1))
        figures[f"{name}_gib"] = round((torch.cuda.max_memory_allocated() - before) / GIB, 2)
        seconds = median_seconds(partial(draw, splats, validator_cameras()), repeats)
        figures[f"{name}_ms"] = round(1000 * seconds, 2)
    difference = (views[0] - views[1]).abs().amax(-1)
    figures["largest_difference_of_255"] = round(255 * float(difference.max()), 3)
    figures["pixels_off"] = int((difference > 1 / 255).sum())
    return figures


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--count", type=int, nargs="*", default=[384_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    obstacle = triton_obstacle(device)
    if obstacle is not None:
        parser.error(f"this compares rasterizers on a GPU with Triton, but {obstacle}")
    clouds = {path.name: read_splats(path) for path in arguments.files}
    clouds |= {f"shell of {count}": egg_shell(count, device) for count in arguments.count}
    results = []
    for name, splats in clouds.items():
        results.append({"splats": name, **measure(splats.to(device), arguments.repeats)})
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json.dumps({"device": device_name(device), "torch": torch.__version__, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
