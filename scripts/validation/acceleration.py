"""Compare objects made with the accelerations of a phase and without, on the embedded checkpoint.

    python -m scripts.validation.acceleration --objects 100 [--device cuda] [--processes 6]

Objects that the checkpoint has not seen are generated from their pictures with phase3's samplers: guided velocities
used again for 1 to 3 steps, products in 8 bits, and both. The differences are of the same objects with the same
noise, with half the width of their 95 % intervals. Processes share the objects, since one alone leaves a GPU idle.
8-bit products are those of the fused kernels, computed on any device: rows and weights are rounded to float8_e4m3fn,
each with a scale, and outputs to bfloat16. The last line is JSON.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.blocks import ModulatedBlock
from scripts.benchmarks.workload import phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny.eval.metrics import Metrics, summarise
from scripts.train_tiny.eval.samples import EvalSample, evaluate, load_model, make_samples

FP8_MAX = 448.0
# Name in the record -> whether products are in 8 bits, and how often a guided velocity is used again.
VARIANTS = {
    "reuse 1": (False, 1),
    "reuse 2": (False, 2),
    "reuse 3": (False, 3),
    "fp8": (True, 0),
    "fp8, reuse 1": (True, 1),
}


def round_rows(x: Tensor) -> Tensor:
    """Round x [..., C] to 8-bit floats, with a scale for each row that maps its largest entry to the largest one."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def eight_bit(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return the layer's function with 8-bit products."""
    weight = round_rows(layer.weight)

    def apply(x: Tensor) -> Tensor:
        return F.linear(round_rows(x), weight, layer.bias).bfloat16().to(x.dtype)

    return apply


@contextmanager
def eight_bit_products(model: LoadedCheckpoint) -> Iterator[None]:
    """Compute in 8 bits what the fused flows do: products of normed rows, and those of the MLP."""
    checkpoint, patches = model.engine.checkpoint, []
    for flow in (checkpoint.structure_flow, checkpoint.latent_flow):
        for block in flow.blocks:
            assert isinstance(block, ModulatedBlock)
            layers = (block.self_attn.to_qkv, block.cross_attn.to_q, block.mlp.mlp[0], block.mlp.mlp[2])
            patches += [patch.object(layer, "forward", eight_bit(cast(nn.Linear, layer))) for layer in layers]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def measure(model: LoadedCheckpoint, samples: list[EvalSample], *, fp8: bool, reuse: int) -> list[Metrics]:
    """Return the metrics of all samples."""
    structure, latents = (replace(params, reuse=reuse) for params in phase_params("phase3"))
    with eight_bit_products(model) if fp8 else nullcontext():
        return evaluate(model, samples, structure, latents).metrics


def measure_all(first: int, count: int, device: str) -> dict[str, list[Metrics]]:
    """Return the metrics of each variant, and of "exact", for some held-out objects."""
    model = load_model("embedded", device)
    samples = make_samples(first, count, model.engine.device, text=False)
    variants = {"exact": (False, 0)} | VARIANTS
    return {name: measure(model, samples, fp8=fp8, reuse=reuse) for name, (fp8, reuse) in variants.items()}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out object")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    end, step = arguments.first + arguments.objects, math.ceil(arguments.objects / arguments.processes)
    starts = range(arguments.first, end, step)
    counts = [min(step, end - start) for start in starts]
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        parts = [*pool.map(measure_all, starts, counts, itertools.repeat(arguments.device))]
    metrics = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    baseline = metrics.pop("exact")
    result = {"exact": summarise(baseline)} | {name: summarise(own, baseline) for name, own in metrics.items()}
    for name, summary in result.items():
        print(f"{name:14} {summary}")
    print(json.dumps({"objects": arguments.objects, "differences": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
