"""Measure the GPU memory of checkpoints at full size, each alone and both together, with their encoders.

    python -m scripts.validation.memory

The weights are random; a spherical shell of voxels replaces the structure. Figures are GiB as torch counts its own
allocations. The last line is JSON. Needs neither bittensor nor rembg. Recorded results: memory.md beside this file.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline import choose_compute
from pipeline.trellis.checkpoint import LoadedNetworks
from pipeline.weights import random_init
from scripts.benchmarks.timing import GIB
from scripts.benchmarks.workload import GenerationWorkload, phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint

VOXELS = 16_000


def measure(directories: Sequence[Path]) -> dict[str, float]:
    """Return the memory of the loaded checkpoints, and the peak while each makes one object."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    compute, params = choose_compute("cuda"), phase_params("phase3")
    shared_networks: LoadedNetworks = {}
    workloads = [
        GenerationWorkload.prepare(LoadedCheckpoint.load(directory, compute, shared_networks), params, VOXELS)
        for directory in directories
    ]
    loaded = torch.cuda.memory_allocated() - before
    for workload in workloads:
        workload.checkpoint.encode(workload.prompt)
        workload.make_candidate(workload.grid)
    torch.cuda.synchronize()
    return {
        "loaded": round(loaded / GIB, 2),
        "peak": round((torch.cuda.max_memory_allocated() - before) / GIB, 2),
        "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        directories = {name: Path(folder) / name for name in random_init.CHECKPOINTS}
        for name, directory in directories.items():
            random_init.write_checkpoint(name, directory, "cuda")
        for role in random_init.DECODERS:
            # The published text checkpoints name the image checkpoint's decoders.
            for suffix in (".json", ".safetensors"):
                first, second = (directory / "ckpts" / f"{role}{suffix}" for directory in directories.values())
                second.unlink()
                second.hardlink_to(first)
        report = {name: measure([directory]) for name, directory in directories.items()}
        report["both"] = measure(list(directories.values()))
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__} | report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
