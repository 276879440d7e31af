"""Measure the GPU memory of checkpoints at full size, and which of them fit cards of 8 to 24 GiB.

    python -m scripts.validation.memory [--cards 8 12 16 24]

Each checkpoint by itself and both together, with their encoders, without and with the networks of the validator's whole
score. The weights are random; a spherical shell of voxels replaces the structure. Smaller cards are this one with a
limit to torch's memory: what the driver and CUDA's libraries take beside torch is taken off it. All structures of the
warm-up must fit, too. Figures are GiB as torch counts its own allocations. The last line is JSON. Needs neither
bittensor nor rembg. Recorded results: memory.md beside this file.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import ValidatorScorer, choose_compute
from pipeline.trellis.checkpoint import LoadedNetworks
from pipeline.weights import random_init
from scripts.benchmarks.scoring import PROMPTS, load_scorer
from scripts.benchmarks.timing import GIB
from scripts.benchmarks.workload import GenerationWorkload, phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint

VOXELS = 16_000


def measure(directories: Sequence[Path], scorer: ValidatorScorer | None) -> dict[str, float]:
    """Return the memory of the loaded checkpoints, and the peak while each makes one object, after its warm-up.

    That of the scorer, which is loaded already, counts, too. Raises torch.OutOfMemoryError.
    """
    torch.cuda.reset_peak_memory_stats()
    compute, params = choose_compute("cuda"), phase_params("phase3")
    shared_networks: LoadedNetworks = {}
    workloads = [
        GenerationWorkload.prepare(LoadedCheckpoint.load(directory, compute, shared_networks), params, VOXELS)
        for directory in directories
    ]
    loaded = torch.cuda.memory_allocated()
    for workload in workloads:
        workload.checkpoint.encode(workload.prompt)
        for _ in workload.engine.warm_up_steps(workload.conditions):
            pass
        splats = workload.make_splats(workload.grid)
        if scorer is not None:
            scorer.for_prompt(PROMPTS["image"])(splats)
    torch.cuda.synchronize()
    return {
        "loaded": round(loaded / GIB, 2),
        "peak": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def free_memory() -> None:
    """Return all memory that nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()


def fits(directories: Sequence[Path], scorer: ValidatorScorer | None, limit: float) -> bool:
    """Return whether everything fits if torch may take so many GiB."""
    torch.cuda.set_per_process_memory_fraction(limit * GIB / torch.cuda.mem_get_info()[1])
    try:
        measure(directories, scorer)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        free_memory()
    return True


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """Write checkpoints with random weights, of which the text checkpoint has the image checkpoint's decoders."""
    directories = {name: folder / name for name in random_init.CHECKPOINTS}
    for name, directory in directories.items():
        random_init.write_checkpoint(name, directory, "cuda")
    for role in random_init.DECODERS:
        # The published text checkpoints name the image checkpoint's decoders.
        for suffix in (".json", ".safetensors"):
            first, second = (directory / "ckpts" / f"{role}{suffix}" for directory in directories.values())
            second.unlink()
            second.hardlink_to(first)
    return directories


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=float, nargs="*", default=[8, 12, 16, 24], help="GiB of the cards to try")
    cards: list[float] = sorted(parser.parse_args().cards)
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    beside = None
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        directories = write_checkpoints(Path(folder))
        sets = {name: [directory] for name, directory in directories.items()} | {"both": [*directories.values()]}
        for is_scored in (False, True):
            scorer = load_scorer(torch.device("cuda")) if is_scored else None
            for name, chosen in sets.items():
                free_memory()
                row: dict[str, Any] = dict(measure(chosen, scorer))
                free, total = torch.cuda.mem_get_info()
                beside = beside or (total - free - torch.cuda.memory_reserved()) / GIB
                free_memory()
                # Less than the peak cannot do, and a card that is larger than one that suffices suffices, too.
                large = [card for card in cards if card - beside >= row["peak"]]
                row["fits"] = next((card for card in large if fits(chosen, scorer, card - beside)), None)
                report[f"{name}, scored" if is_scored else name] = row
                print(f"{name:12} {'scored' if is_scored else '':6} {row}", flush=True)
    print(json.dumps(report | {"beside_torch": round(beside or 0.0, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
