"""Measure how far the same request with the same seed differs between runs, processes, threads, batches and devices.

    python -m scripts.validation.determinism
    python -m scripts.validation.determinism --phase phase3 --prompts 2
    python -m scripts.validation.determinism --gpu-only

Generates objects with the embedded checkpoints, four seeds for each prompt, on the CPU and, where there is one, a GPU:
once more in the opposite order, in another process, with other numbers of threads, and four at a time, which only the
plain kernels can do. Prints a table: how many objects have the same bits, how many voxels differ, and the largest
difference of the splats' values, on equal structures. The last line is JSON. Exits with 1 unless another run and
another process on the same device give the same bits. Needs neither bittensor nor rembg. Recorded results:
determinism.md beside this file.
"""

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from pipeline import Asset, Request, SamplerParams, TextPrompt, choose_compute
from pipeline.compute import Kernels, Precision
from pipeline.params import Conditions
from pipeline.request import ignore_steps
from pipeline.sampling.sample import Measurements, sample_asset
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights.locate import locate
from scripts.benchmarks.timing import device_name
from scripts.benchmarks.workload import phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny.eval.samples import encode, held_out_object, render_prompt
from scripts.validation.object_comparison import ARRAYS, Comparison, Output, compare

Kind = Literal["image", "text"]
CHECKPOINTS: dict[Kind, str] = {"image": "embedded", "text": "embedded-text"}
SEEDS = (0, 1, 2, 3)
# Rows whose objects must have the same bits.
REPEATED = ("second run", "another process")


@dataclass(frozen=True)
class Setup:
    """What objects are generated with: a checkpoint, the settings of both samplers, a device and its kernels."""

    kind: Kind
    params: tuple[SamplerParams, SamplerParams]
    device: str = "cpu"
    precision: Precision = "float32"
    kernels: Kernels = "plain"

    @property
    def name(self) -> str:
        """Device, precision and kernels, as the table names them."""
        return "CPU" if self.device == "cpu" else f"GPU {self.precision} {self.kernels}"


@dataclass(eq=False)
class Generation:
    """Objects from prompts of held-out objects, one at a time as the miner makes them, or as one batch."""

    setup: Setup
    seeds: Sequence[int] = SEEDS
    _checkpoint: LoadedCheckpoint = field(init=False)
    _conditions: dict[int, Conditions] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Load the checkpoint."""
        setup = self.setup
        compute = choose_compute(setup.device, setup.precision, setup.kernels)
        self._checkpoint = LoadedCheckpoint.load(locate(CHECKPOINTS[setup.kind], "pipeline.json"), compute)

    def encode(self, number: int) -> Conditions:
        """Return the conditions of a held-out object's picture or caption, encoded once."""
        if number not in self._conditions:
            caption, single = held_out_object(number, torch.device("cpu"))
            prompt = caption if self.setup.kind == "text" else render_prompt(single)
            self._conditions[number] = encode(self._checkpoint, prompt)
        return self._conditions[number]

    @torch.inference_mode()
    def one_by_one(
        self, number: int, structures: Sequence[Output] | None = None, *, backwards: bool = False
    ) -> list[Output]:
        """Make an object of each seed; `backwards` begins with the last seed."""
        conditions = self.encode(number)
        outputs = {}
        for index, seed in sorted(enumerate(self.seeds), reverse=backwards):
            structure = None if structures is None else torch.from_numpy(structures[index].voxels)
            # The engine is conditioned on encoded tokens; the request's own prompt is not read.
            request = Request(TextPrompt("-"), seed, *self.setup.params, structure=structure)
            asset = self._sample(conditions, request)
            assert asset.structure is not None
            outputs[seed] = Output.of(asset.structure, asset.splats.tensors())
        return [outputs[seed] for seed in self.seeds]

    @torch.inference_mode()
    def batched(self, number: int, structures: Sequence[Output] | None = None) -> list[Output]:
        """Make the objects of all seeds as one batch, which only the plain kernels can."""
        conditions, engine = self.encode(number), self._checkpoint.engine
        sources = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        noise = torch.stack([torch.randn(engine.structure_shape, generator=source) for source in sources])
        structure_params, latent_params = self.setup.params
        if structures is None:
            logits = engine.decode_structure(engine.sample_structure(conditions, structure_params, noise))
            coords = occupied_voxels(logits)
            positions = [coords[coords[:, 0] == index, 1:] for index in range(len(self.seeds))]
        else:
            positions = [torch.from_numpy(output.voxels).to(engine.device) for output in structures]
        counts = [len(voxels) for voxels in positions]
        grid = VoxelGrid.of(positions)
        noises = [
            torch.randn(count, engine.latent_channels, generator=source)
            for count, source in zip(counts, sources, strict=True)
        ]
        latents = engine.sample_latents(conditions, latent_params, grid, torch.cat(noises))
        splats = engine.decode_latents(latents, grid)
        per_voxel = len(splats) // len(grid)
        parts = {name: tensor.split([per_voxel * n for n in counts]) for name, tensor in splats.tensors().items()}
        return [
            Output.of(voxels, {name: tensors[index] for name, tensors in parts.items()})
            for index, voxels in enumerate(positions)
        ]

    def _sample(self, conditions: Conditions, request: Request) -> Asset:
        engine = self._checkpoint.engine
        return sample_asset(engine, conditions, request, ignore_steps, Measurements(engine.device))


def make_elsewhere(setup: Setup, seeds: Sequence[int], threads: int, numbers: Sequence[int]) -> list[list[Output]]:
    """Make the objects of some prompts one by one, in a process that was started for it."""
    torch.set_num_threads(threads)
    generation = Generation(setup, seeds)
    return [generation.one_by_one(number) for number in numbers]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use another number of threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare_on_device(
    generation: Generation, numbers: Sequence[int], references: Sequence[Sequence[Output]]
) -> Iterator[tuple[str, Comparison]]:
    """Yield what repeats on one device, with torch's present number of threads, against the references made there."""
    backwards = list(reversed(numbers))
    second = partial(generation.one_by_one, backwards=True)
    yield "second run", compare(backwards, list(reversed(references)), second)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(
            make_elsewhere, generation.setup, generation.seeds, torch.get_num_threads(), numbers
        ).result()
    made = dict(zip(numbers, elsewhere, strict=True))
    # It does not generate on given structures: where its own differ, that is all there is to say.
    yield "another process", compare(numbers, references, lambda number, structures: made[number])
    if generation.setup.kernels == "plain":
        yield f"batch of {len(generation.seeds)}", compare(numbers, references, generation.batched)


def compare_on_cpu(
    cpu: Generation, numbers: Sequence[int], references: Sequence[Sequence[Output]]
) -> Iterator[tuple[str, str, Comparison]]:
    """Yield the comparisons of runs on the CPU; the references were made there by one thread."""
    all_threads = torch.get_num_threads()
    with torch_threads(1):
        for name, comparison in compare_on_device(cpu, numbers, references):
            yield f"CPU, 1 thread, {name}", "CPU, 1 thread", comparison
    for threads in sorted({2, all_threads} - {1}):
        with torch_threads(threads):
            yield f"CPU, {threads} threads", "CPU, 1 thread", compare(numbers, references, cpu.one_by_one)
            again = [cpu.one_by_one(number) for number in numbers]
            second = compare(numbers, again, partial(cpu.one_by_one, backwards=True))
            yield f"CPU, {threads} threads, second run", f"CPU, {threads} threads", second


def compare_on_gpu(
    kind: Kind, params: tuple[SamplerParams, SamplerParams], numbers: Sequence[int],
    references: Sequence[Sequence[Output]],
) -> Iterator[tuple[str, str, Comparison]]:  # fmt: skip
    """Yield the comparisons of a GPU with the references, which one thread of the CPU made, and of its own runs."""
    variants: tuple[tuple[Precision, Kernels], ...] = (
        ("float32", "plain"), ("float16", "plain"), ("float16", "fused")
    )  # fmt: skip
    for precision, kernels in variants:
        generation = Generation(Setup(kind, params, "cuda", precision, kernels))
        name = generation.setup.name
        yield name, "CPU, 1 thread", compare(numbers, references, generation.one_by_one)
        own = [generation.one_by_one(number) for number in numbers]
        for other, comparison in compare_on_device(generation, numbers, own):
            yield f"{name}, {other}", name, comparison


def measure(kind: Kind, phase: str, prompts: int, *, cpu: bool, gpu: bool) -> Iterator[tuple[str, str, Comparison]]:
    """Yield (what was compared, with what, the comparison) for one kind of prompt on the devices that are asked for."""
    params, numbers = phase_params(phase), range(prompts)
    generation = Generation(Setup(kind, params))
    with torch_threads(1):
        references = [generation.one_by_one(number) for number in numbers]
    if cpu:
        yield from compare_on_cpu(generation, numbers, references)
    if gpu:
        yield from compare_on_gpu(kind, params, numbers, references)


def table_row(kind: str, run: str, reference: str, comparison: Comparison) -> str:
    """Return a row of the table."""
    differences = " | ".join(f"{comparison.largest[name]:.1e}" for name in ARRAYS)
    return (
        f"| {kind} | {run} | {reference} | {comparison.identical} of {comparison.objects} | "
        f"{comparison.other_voxels} of {comparison.voxels} | {differences} |"
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="held-out objects of each kind (default: 4)")
    parser.add_argument("--phase", default="demo", help="the shipped phase with the samplers' settings (default: demo)")
    parser.add_argument("--gpu-only", action="store_true", help="do not compare runs on the CPU with one another")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = device_name(torch.device("cuda" if gpu else "cpu"))
    print(f"{device}, Python {platform.python_version()}, torch {torch.__version__}, phase {arguments.phase}\n")
    print(f"| prompt | run | against | same bits | other voxels | {' | '.join(ARRAYS.values())} |")
    print(f"| --- | --- | --- | --- | --- |{' --- |' * len(ARRAYS)}")
    report: dict[str, Any] = {"device": device, "torch": torch.__version__, "phase": arguments.phase}
    unequal = []
    for kind in CHECKPOINTS:
        compared = measure(kind, arguments.phase, arguments.prompts, cpu=not arguments.gpu_only, gpu=gpu)
        for run, reference, comparison in compared:
            print(table_row(kind, run, reference, comparison), flush=True)
            report[f"{kind}: {run}"] = vars(comparison) | {"against": reference}
            if run.endswith(REPEATED) and comparison.identical < comparison.objects:
                unequal.append(f"{kind}: {run}")
    for name in unequal:
        print(f"not the same bits: {name}", file=sys.stderr)
    print(json.dumps(report))
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
