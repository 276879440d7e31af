"""Measure a trained tiny checkpoint on objects it never saw.

    python scripts/train_tiny/evaluate.py --checkpoint DIR --objects 200 --seed 0 --json result.json

The prompts are pictures with alpha; results are compared with the objects themselves. Means with the half widths of
their 95 % intervals; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams, choose
from pipeline.conditioning import ImageEncoder
from pipeline.engine import Engine
from pipeline.preprocessing import frame_object
from pipeline.sampling import Conditions
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import load_checkpoint
from pipeline.trellis.structure_decoder import occupied_voxels
from pipeline.weights import locate, locate_image_encoder
from scripts.train_tiny.distances import Objects
from scripts.train_tiny.measures import Measures, matched, measure, summary, true_views, views
from scripts.train_tiny.objects import make_thing
from scripts.train_tiny.pictures import pictures
from scripts.train_tiny.pool import HELD_OUT
from scripts.train_tiny.voxels import occupancy

PROMPT_SIZE = 256
MATCHED_AMONG = 20


class Subject:
    """A checkpoint, loaded as the miner loads it."""

    def __init__(self, reference: str, device: str) -> None:
        compute = choose(device)
        directory = locate(reference, "pipeline.json")
        self.engine = Engine(load_checkpoint(directory, compute.device, compute.dtype), compute)
        name = self.engine.checkpoint.image_cond_model
        self._encoder = ImageEncoder(locate_image_encoder(name, directory), compute.device)

    @torch.inference_mode()
    def generate(
        self, prompt: Image.Image, seed: int, structure: SamplerParams, latents: SamplerParams
    ) -> tuple[Tensor, Tensor]:
        """Occupied voxels [64, 64, 64] bool and views [2, 4, S, S]; nothing and black if no voxel is occupied."""
        engine, source = self.engine, torch.Generator("cpu").manual_seed(seed)
        conditions = Conditions((self._encoder(frame_object(prompt)),), None)
        noise = torch.randn(1, *engine.structure_shape, generator=source)
        logits = engine.decode_structure(engine.sample_structure(conditions, structure, noise))
        coords = occupied_voxels(logits)
        if len(coords) == 0:
            return logits[0, 0] > 0, logits.new_zeros(2, 4, 1, 1)
        grid = VoxelGrid(coords)
        noise = torch.randn(len(grid), engine.latent_channels, generator=source)
        sample = engine.sample_latents(conditions, latents, grid, noise)
        return logits[0, 0] > 0, views(engine.decode_latents(sample, grid))


def evaluate(
    subject: Subject, first: int, count: int, structure: SamplerParams, latents: SamplerParams
) -> tuple[list[Measures], float]:
    """Measures of `count` held-out objects, and the share of results matched to their own prompt among 20."""
    found, ours, true = [], [], []
    for number in range(first, first + count):
        thing = Objects.of([make_thing(HELD_OUT + number).parts], subject.engine.device)
        rgba = (pictures(thing, PROMPT_SIZE)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        occupied, seen = subject.generate(Image.fromarray(rgba, "RGBA"), number, structure, latents)
        expected = true_views(thing)
        seen = seen.expand_as(expected)
        found.append(measure(occupied, occupancy(thing)[0], seen, expected))
        ours.append(seen[0])
        true.append(expected[0])
    shares = [
        matched(torch.stack(ours[start : start + MATCHED_AMONG]), torch.stack(true[start : start + MATCHED_AMONG]))
        for start in range(0, count - MATCHED_AMONG + 1, MATCHED_AMONG)
    ]
    return found, sum(shares) / len(shares) if shares else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first object, among those never trained on")
    parser.add_argument("--steps", type=int, help="of both samplers, instead of what the checkpoint recommends")
    parser.add_argument("--strength", type=float, help="of guidance, for both samplers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    subject = Subject(arguments.checkpoint, arguments.device)
    checkpoint = subject.engine.checkpoint
    changes = {"steps": arguments.steps, "cfg_strength": arguments.strength}
    changes = {name: value for name, value in changes.items() if value is not None}
    structure, latents = (
        replace(params, **changes)
        for params in (checkpoint.sparse_structure_sampler_params, checkpoint.slat_sampler_params)
    )
    start = time.monotonic()
    found, share = evaluate(subject, arguments.seed, arguments.objects, structure, latents)
    measures = summary(found)
    for name, (mean, half) in measures.items():
        print(f"{name:15} {mean:.3f} ± {half:.3f}")
    print(f"{'matched':15} {share:.3f} among {MATCHED_AMONG}")
    result = {
        "objects": arguments.objects,
        "seed": arguments.seed,
        "structure": structure.published(),
        "latents": latents.published(),
        "matched": share,
        "seconds": round(time.monotonic() - start, 1),
    } | measures
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
