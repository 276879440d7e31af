"""Time every stage of generation on a GPU, against the measured ceiling of its matrix products.

    python scripts/benchmark.py --checkpoint random:image-large --phase phase3 --voxels 12000 --json result.json
    python scripts/benchmark.py --checkpoint random:image-large --kernels plain
    python scripts/benchmark.py --checkpoint DIR --candidates

random:NAME writes a checkpoint of the public one's size with random weights first. A spherical shell of voxels stands
for the structure, since random weights make none. Medians after a warm-up, with the device synchronised; the last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

START = time.perf_counter()

import torch
import yaml
from PIL import Image
from torch import Tensor

from pipeline import ComputeConfig, SamplerParams, choose_compute, ply
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.params import Conditions
from pipeline.sampling.engine import Engine
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights import random_init as random_checkpoint
from pipeline.weights.locate import locate, locate_image_encoder, locate_text_encoder
from scripts.benchmarks import operations

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
CANDIDATE_SECONDS = 25.0
NEW_SIZES = (0.53, 0.83, 1.31)


def shell(voxels: int, device: torch.device) -> VoxelGrid:
    """The `voxels` voxels of a 64^3 grid that are nearest to a sphere, in a layer about 1.3 voxels thick."""
    axis = (torch.arange(64) + 0.5) / 64 - 0.5
    radii = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    distance = (radii - (voxels / (4 * torch.pi * 1.3)) ** 0.5 / 64).abs()
    nearest = distance.flatten().argsort(stable=True)[:voxels]
    occupied = torch.zeros(64**3, dtype=torch.bool)
    occupied[nearest] = True
    return VoxelGrid.of([occupied.view(64, 64, 64).nonzero().to(device)])


def ceiling(dtype: torch.dtype) -> float:
    """Operations per second of an 8192^3 matrix product of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / timed(lambda: a @ b, 20)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` runs after two others."""
    seconds = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])


def phase_params(name: str, reuse: int = 0) -> tuple[SamplerParams, SamplerParams]:
    """The samplers of a phase, with so many guided steps reusing a velocity."""
    first, second = (_sampler(name, key) for key in ("sparse_structure_sampler_params", "slat_sampler_params"))
    return replace(first, reuse=reuse), replace(second, reuse=reuse)


def _sampler(name: str, key: str) -> SamplerParams:
    # Read here, since the miner's own reader needs packages that this script does without.
    settings: dict[str, Any] = {}
    phase: dict[str, Any] = {"extends": name}
    while "extends" in phase:
        phase = yaml.safe_load((ROOT / "config" / "phases" / f"{phase['extends']}.yaml").read_text())
        settings = phase.get(key, {}) | settings
    return SamplerParams(**settings | {"cfg_interval": tuple(settings["cfg_interval"])})


class Subject:
    """A loaded engine, a prompt's conditions and all that the stages work on."""

    def __init__(
        self,
        directory: Path,
        compute: ComputeConfig,
        params: tuple[SamplerParams, SamplerParams],
        voxels: int,
        loaded: LoadedNetworks | None = None,
    ) -> None:
        start = time.perf_counter()
        self.engine = Engine(load_checkpoint(directory, compute.device, compute.dtype, loaded=loaded), compute)
        checkpoint = self.engine.checkpoint
        if checkpoint.image_cond_model:
            encoder = ImageEncoder(locate_image_encoder(checkpoint.image_cond_model, directory), compute.device)
            picture = torch.randint(0, 256, (518, 518, 3), dtype=torch.uint8).numpy()
            self.encode: Callable[[], Tensor] = lambda: encoder(Image.fromarray(picture))
            negative: Tensor | None = None
        else:
            sentences = TextEncoder(locate_text_encoder(checkpoint.text_cond_model, directory), compute.device)
            self.encode = lambda: sentences("a red chair")
            negative = sentences.null
        torch.cuda.synchronize()
        self.load_seconds = time.perf_counter() - start
        self.structure_params, self.latent_params = params
        self.conditions = Conditions((self.encode(),), negative)
        self.grid = shell(voxels, compute.device)
        self.structure_noise = torch.randn(1, *self.engine.structure_shape)

    def structure(self) -> Tensor:
        return self.engine.sample_structure(self.conditions, self.structure_params, self.structure_noise)

    def latents(self, grid: VoxelGrid) -> Tensor:
        # As for a new structure: nothing that was derived from its coordinates is kept.
        fresh = VoxelGrid(grid.coords)
        noise = torch.randn(len(grid), self.engine.latent_channels)
        return self.engine.sample_latents(self.conditions, self.latent_params, fresh, noise)

    def candidate(self, grid: VoxelGrid) -> bytes:
        """One whole candidate, its conditions given."""
        occupied_voxels(self.engine.decode_structure(self.structure()))
        return ply.to_bytes(self.engine.decode_latents(self.latents(grid), VoxelGrid(grid.coords)))


def stages(subject: Subject, repeats: int) -> dict[str, tuple[float, float | None]]:
    """Stage -> median seconds, operations (None where they are not matrix products)."""
    engine, grid = subject.engine, subject.grid
    checkpoint, context = engine.checkpoint, subject.conditions.positive[0]
    assert context is not None
    tokens, zero_negative = context.shape[1], subject.conditions.negative is None
    sample, latents = subject.structure(), subject.latents(grid)
    splats = engine.decode_latents(latents, grid)
    work: dict[str, tuple[Callable[[], object], float | None]] = {
        "conditioning": (subject.encode, None),
        "structure sampling": (
            subject.structure,
            operations.structure_sampling(
                checkpoint.structure_flow, subject.structure_params, tokens, zero_negative=zero_negative
            ),
        ),
        "structure decoding": (lambda: occupied_voxels(engine.decode_structure(sample)), None),
        "latent sampling": (
            lambda: subject.latents(grid),
            operations.latent_sampling(
                checkpoint.latent_flow, subject.latent_params, grid, tokens, zero_negative=zero_negative
            ),
        ),
        "gaussian decoding": (
            lambda: engine.decode_latents(latents, VoxelGrid(grid.coords)),
            operations.gaussian_decoding(checkpoint.gaussian_decoder, grid),
        ),
        "PLY bytes": (lambda: ply.to_bytes(splats), None),
    }
    return {name: (timed(run, repeats), count) for name, (run, count) in work.items()}


def first_against_tenth(subject: Subject) -> list[float]:
    """For sizes never seen, the ratio of the first whole candidate's time to the tenth's."""
    ratios = []
    for factor in NEW_SIZES:
        grid = shell(round(len(subject.grid) * factor), subject.engine.device)
        seconds = []
        for _ in range(10):
            torch.cuda.synchronize()
            start = time.perf_counter()
            subject.candidate(grid)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[-1])
    return ratios


def another_phase(subject: Subject) -> float:
    """The ratio of the first whole candidate's time with other steps and guidance to the third's."""
    subject.structure_params = SamplerParams(30, 7.5, (0.5, 1.0), 3.0)
    subject.latent_params = SamplerParams(20, 3.0, (0.5, 1.0), 3.0)
    seconds = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        subject.candidate(subject.grid)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[-1]


def candidates(subject: Subject) -> int:
    """How many whole candidates fit into CANDIDATE_SECONDS."""
    start, count = time.perf_counter(), 0
    while True:
        subject.candidate(subject.grid)
        torch.cuda.synchronize()
        if time.perf_counter() - start > CANDIDATE_SECONDS:
            return count
        count += 1


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures of one run."""
    compute = choose_compute("cuda", arguments.precision, arguments.kernels, fp8=arguments.fp8)
    torch.manual_seed(0)
    with torch.inference_mode():
        subject = Subject(directory, compute, phase_params(arguments.phase, arguments.reuse), arguments.voxels)
        loaded = torch.cuda.memory_allocated()
        subject.candidate(subject.grid)
        subject.engine.warm_up(subject.conditions)
        torch.cuda.synchronize()
        ready = time.perf_counter() - START - arguments.written
        torch.cuda.reset_peak_memory_stats()
        top = ceiling(compute.dtype)
        torch.cuda.reset_peak_memory_stats()
        measured = stages(subject, arguments.repeats)
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        result: dict[str, Any] = {
            "command": " ".join(sys.argv),
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "compute": compute.reason,
            "voxels": len(subject.grid),
            "load_seconds": round(subject.load_seconds, 2),
            "start_to_ready_seconds": round(ready, 2),
            "loaded_gib": round(loaded / GIB, 3),
            "peak_gib": round(peak / GIB, 3),
            "reserved_gib": round(reserved / GIB, 3),
            "ceiling_tflops": round(top / 1e12, 1),
            "milliseconds": {name: round(1e3 * seconds, 2) for name, (seconds, _) in measured.items()},
            "tera_operations": {name: round(count / 1e12, 2) for name, (_, count) in measured.items() if count},
            "share_of_ceiling": {
                name: round(count / seconds / top, 3) for name, (seconds, count) in measured.items() if count
            },
        }
        if arguments.candidates:
            result["candidates"] = candidates(subject)
        if arguments.new_sizes:
            result["first_against_tenth"] = [round(ratio, 3) for ratio in first_against_tenth(subject)]
            # Last, since the subject keeps the other phase.
            result["another_phase"] = round(another_phase(subject), 3)
    result["total_milliseconds"] = round(sum(result["milliseconds"].values()), 1)
    return result


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    print(f"{result['device']}, torch {result['torch']}, {result['compute']}")
    for name, milliseconds in result["milliseconds"].items():
        line = f"{name:20} {milliseconds:9.2f} ms"
        if name in result["tera_operations"]:
            line += f" {result['tera_operations'][name]:8.1f} T  {100 * result['share_of_ceiling'][name]:5.1f} %"
        print(line)
    print(f"{'sum':20} {result['total_milliseconds']:9.2f} ms; peak {result['peak_gib']} GiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="random:image-large", help="random:NAME, a directory or an id")
    parser.add_argument("--phase", default="phase3")
    parser.add_argument("--voxels", type=int, default=12000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernels", choices=["auto", "plain", "fused"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "float16", "bfloat16"], default="auto")
    parser.add_argument("--fp8", action="store_true", help="acceleration.fp8")
    parser.add_argument("--reuse", type=int, default=0, help="acceleration.reuse")
    parser.add_argument(
        "--new-sizes", action="store_true", help="compare the first runs of sizes and phases never seen with later ones"
    )
    parser.add_argument("--candidates", action="store_true", help=f"count those that fit {CANDIDATE_SECONDS:.0f} s")
    parser.add_argument("--json", type=Path, help="write the figures to a file, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this measures a CUDA GPU, and torch sees none", file=sys.stderr)
        return 2
    kind, _, name = arguments.checkpoint.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if kind == "random":
            directory = Path(folder)
            random_checkpoint.write(name, directory, torch.float16, "cuda")
            torch.cuda.empty_cache()
        else:
            directory = locate(arguments.checkpoint, "pipeline.json")
        arguments.written = time.perf_counter() - start
        result = measure(arguments, directory)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
