"""GPU memory of checkpoints at full size, each alone and both together, with their encoders.

    python scripts/proofs/memory.py [--voxels 16000]

Random weights; a spherical shell stands for the structure. GiB as torch counts its own allocations. The last line is
JSON. Recorded results: memory.md beside this file.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path

import torch

from pipeline import choose_compute
from pipeline.trellis.checkpoint import LoadedNetworks
from pipeline.weights import random_init as random_checkpoint
from scripts.benchmarks.generation import GIB, Subject, phase_params


def measure(directories: list[Path], voxels: int) -> dict[str, float]:
    """LoadedModels, and the peak while each makes one object."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded_networks: LoadedNetworks = {}
    subjects = [
        Subject(directory, choose_compute("cuda"), phase_params("phase3"), voxels, loaded_networks)
        for directory in directories
    ]
    loaded = torch.cuda.memory_allocated() - before
    for subject in subjects:
        subject.encode()
        subject.candidate(subject.grid)
    torch.cuda.synchronize()
    return {
        "loaded": round(loaded / GIB, 2),
        "peak": round((torch.cuda.max_memory_allocated() - before) / GIB, 2),
        "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=16000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        directories = {name: Path(folder) / name for name in random_checkpoint.FLOWS}
        for name, directory in directories.items():
            random_checkpoint.write_checkpoint(name, directory, torch.float16, "cuda")
        for role in random_checkpoint.DECODERS:
            # The published text checkpoints name the image checkpoint's decoders.
            for suffix in (".json", ".safetensors"):
                first, second = (directory / "ckpts" / f"{role}{suffix}" for directory in directories.values())
                second.unlink()
                second.hardlink_to(first)
        report = {name: measure([directory], arguments.voxels) for name, directory in directories.items()}
        report["both"] = measure(list(directories.values()), arguments.voxels)
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__} | report))


if __name__ == "__main__":
    main()
