"""Measure a trained tiny checkpoint on objects it never saw.

    python scripts/train_tiny/evaluate.py --objects 200 --seed 0 --json result.json
    python scripts/train_tiny/evaluate.py --checkpoint embedded-text --objects 200
    python scripts/train_tiny/evaluate.py --objects 48 --curves --json curves.json

The prompts are pictures with alpha, or sentences if that is what the checkpoint takes; results are compared with the
objects themselves. Means with the half widths of their 95 % intervals; the last line is JSON. --curves repeats it for
all strengths of guidance and numbers of steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from pipeline import SamplerParams
from scripts.train_tiny.exam import MATCHED_AMONG, Question, examine, questions
from scripts.train_tiny.measures import summary
from scripts.train_tiny.subject import Subject

STRENGTHS = (0.0, 1.0, 2.5, 4.0, 7.0, 9.0)
STEPS = (2, 5, 12, 25, 50)


def measured(
    subject: Subject, asked: list[Question], structure: SamplerParams, latents: SamplerParams, batch: int
) -> dict[str, Any]:
    """Settings, means with intervals, the matched share and the seconds, in types of JSON."""
    start = time.monotonic()
    result = examine(subject, asked, structure, latents, batch)
    return {
        "structure": structure.published(),
        "latents": latents.published(),
        **{name: [round(value, 4) for value in pair] for name, pair in summary(result.measures).items()},
        "matched": round(result.matched, 4),
        "seconds": round(time.monotonic() - start, 1),
    }


def show(result: dict[str, Any]) -> None:
    """A line for people."""
    pairs = {name: value for name, value in result.items() if isinstance(value, list)}
    measures = "  ".join(f"{name} {mean:.3f} ± {half:.3f}" for name, (mean, half) in pairs.items())
    settings = f"{result['structure']['steps']:3} steps at {result['structure']['cfg_strength']:4}"
    print(f"{settings}: {measures}  matched {result['matched']:.2f} of {MATCHED_AMONG}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first object among those never trained on")
    parser.add_argument("--steps", type=int, help="of both samplers, instead of what the checkpoint recommends")
    parser.add_argument("--strength", type=float, help="of guidance, for both samplers")
    parser.add_argument("--curves", action="store_true", help="all strengths and steps instead of one pair")
    parser.add_argument("--batch", type=int, default=4, help="objects at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    subject = Subject(arguments.checkpoint, arguments.device)
    checkpoint = subject.engine.checkpoint
    recommended = checkpoint.sparse_structure_sampler_params, checkpoint.slat_sampler_params
    asked = questions(arguments.seed, arguments.objects, subject.engine.device, sentences=subject.takes_sentences)
    changes: list[dict[str, Any]] = [
        {
            key: value
            for key, value in (("steps", arguments.steps), ("cfg_strength", arguments.strength))
            if value is not None
        }
    ]
    if arguments.curves:
        changes = [{"steps": steps, "cfg_strength": strength} for strength, steps in product(STRENGTHS, STEPS)]
    results = []
    for change in changes:
        structure, latents = (replace(params, **change) for params in recommended)
        results.append(measured(subject, asked, structure, latents, arguments.batch))
        show(results[-1])
    content = {
        "checkpoint": arguments.checkpoint,
        "objects": arguments.objects,
        "seed": arguments.seed,
        "device": torch.cuda.get_device_name() if subject.engine.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
