"""Time the removal of backgrounds, on the CPU and, where onnxruntime can use it, on the GPU.

    python -m scripts.benchmarks.background [--model u2net] [--size 1024]

Prints the median seconds of a picture of `size` x `size` pixels once warm, by provider; the last line is JSON. Recorded
results: background_202611.md beside this file.
"""

import argparse
import json
import os
import sys
from functools import partial

import numpy as np

# First, since its libraries of CUDA are those that onnxruntime finds, as in the miner.
import torch
from PIL import Image

from pipeline import BACKGROUND_MODELS
from pipeline.conditioning.background import BackgroundRemover, Provider
from scripts.benchmarks.timing import median_seconds

REPEATS = 11
PROVIDERS: tuple[Provider, ...] = ("cpu", "auto")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(BACKGROUND_MODELS), default="u2net")
    parser.add_argument("--size", type=int, default=1024, help="pixels")
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 255, (arguments.size, arguments.size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    seconds: dict[str, float] = {}
    for provider in PROVIDERS:
        remover = BackgroundRemover(arguments.model, provider)
        seconds[remover.provider] = round(median_seconds(partial(remover, picture), REPEATS), 4)
        print(f"{arguments.model} on {remover.provider}: {seconds[remover.provider]:.3f} s", flush=True)
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"model": arguments.model, "cores": cores, "torch": torch.__version__, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
