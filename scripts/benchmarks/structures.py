"""Measure how the time of latents and gaussians grows with a structure's voxels, and with the cells that they fill.

    python -m scripts.benchmarks.structures --checkpoint random:image-large --phase phase3

Most of the work is done at half the resolution, for each cell of 2 x 2 x 2 voxels that holds any. An object's surface
fills about a third as many cells as it has voxels; a structure that is scattered over the grid fills nearly as many as
voxels. The figures are medians after a warm-up; the last line is JSON.
"""

import argparse
import json
import sys

import torch

from pipeline import choose_compute
from pipeline.sampling.engine import grid_of_size
from pipeline.trellis import VoxelGrid
from scripts.benchmarks.timing import device_name, median_seconds
from scripts.benchmarks.workload import GenerationWorkload, checkpoint_directory, phase_params, shell_grid
from scripts.loaded_checkpoint import LoadedCheckpoint

SHELLS = (4_000, 6_000, 8_000, 10_000, 12_000, 14_000, 16_000, 18_000, 20_000)
SCATTERED_VOXELS = 12_000
SCATTERED_CELLS = (3_000, 4_500, 6_000, 8_000, 10_000)


@torch.inference_mode()
def measure(workload: GenerationWorkload, grid: VoxelGrid, repeats: int) -> dict[str, float]:
    """Return a structure's voxels, cells and median seconds."""
    latents = workload.sample_latents(grid)
    return {
        "voxels": len(grid),
        "cells": len(grid.pooling.coarse),
        "latents": round(median_seconds(lambda: workload.sample_latents(grid), repeats), 4),
        "gaussians": round(
            median_seconds(lambda: workload.engine.decode_latents(latents, VoxelGrid(grid.coords)), repeats), 4
        ),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="random:image-large", help="random:NAME, a directory or an id")
    parser.add_argument("--phase", default="phase3")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    compute = choose_compute("cuda")
    with checkpoint_directory(arguments.checkpoint) as directory:
        checkpoint = LoadedCheckpoint.load(directory, compute)
    workload = GenerationWorkload.prepare(checkpoint, phase_params(arguments.phase), SCATTERED_VOXELS)
    shells = [shell_grid(voxels, compute.device) for voxels in SHELLS]
    scattered = [grid_of_size(cells, SCATTERED_VOXELS, compute.device) for cells in SCATTERED_CELLS]
    results = [measure(workload, grid, arguments.repeats) for grid in (*shells, *scattered)]
    print(" voxels  cells  latents  gaussians")
    for result in results:
        print("{voxels:7} {cells:6} {latents:8.3f} {gaussians:10.4f}".format(**result))
    print(json.dumps({"device": device_name(compute.device), "torch": torch.__version__, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
