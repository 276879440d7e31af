"""Measure a trained tiny checkpoint on objects it never saw.

    python scripts/train_tiny/evaluate.py --objects 200 --seed 0 --json result.json
    python scripts/train_tiny/evaluate.py --checkpoint embedded-text --objects 200
    python scripts/train_tiny/evaluate.py --objects 48 --curves --json curves.json
    python scripts/train_tiny/evaluate.py --objects 100 --steps 12 --strength 0 1

The prompts are pictures with alpha, or sentences if that is what the checkpoint takes; results are compared with the
objects themselves. Means with the half widths of their 95 % intervals; the last line is JSON. Several strengths of
guidance and numbers of steps are all combined; what strength 0 was measured for as well is also compared with it object
by object, which tells smaller differences apart than two intervals do. --curves takes those of the README.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pipeline import SamplerParams
from scripts.train_tiny.exam import MATCHED_AMONG, Result, examine, questions
from scripts.train_tiny.measures import summary
from scripts.train_tiny.subject import Subject

STRENGTHS = (0.0, 1.0, 2.5, 4.0, 7.0, 9.0)
STEPS = (2, 5, 12, 25, 50)


def _list(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def described(
    result: Result, structure: SamplerParams, latents: SamplerParams, base: Result | None, seconds: float
) -> dict[str, Any]:
    """Settings, means with intervals, the matched share and the seconds, in types of JSON; base: at strength 0."""
    found: dict[str, Any] = {
        "structure": structure.published(),
        "latents": latents.published(),
        **_rounded(summary(result.measures)),
        "matched": round(result.matched, 4),
        "seconds": round(seconds, 1),
    }
    if base is not None:
        found["less_strength_0"] = _rounded(summary(result.measures, base.measures))
    return found


def _rounded(pairs: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in pair] for name, pair in pairs.items()}


def show(result: dict[str, Any]) -> None:
    """A line for people, and one with the differences from strength 0."""
    settings = f"{result['structure']['steps']:3} steps at {result['structure']['cfg_strength']:4}"
    print(f"{settings}: {_shown(result)}  matched {result['matched']:.2f} of {MATCHED_AMONG}", flush=True)
    if "less_strength_0" in result:
        print(f"{'less strength 0':>20}: {_shown(result['less_strength_0'])}", flush=True)


def _shown(values: dict[str, Any]) -> str:
    pairs = {name: value for name, value in values.items() if isinstance(value, list)}
    return "  ".join(f"{name} {mean:.4f} ± {half:.4f}" for name, (mean, half) in pairs.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first object among those never trained on")
    parser.add_argument("--steps", type=int, nargs="+", help="of both samplers, instead of the checkpoint's own")
    parser.add_argument("--strength", type=float, nargs="+", help="of guidance, for both samplers")
    parser.add_argument("--curves", action="store_true", help=f"--steps {_list(STEPS)} --strength {_list(STRENGTHS)}")
    parser.add_argument("--batch", type=int, default=4, help="objects at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    subject = Subject(arguments.checkpoint, arguments.device)
    checkpoint = subject.engine.checkpoint
    recommended = checkpoint.sparse_structure_sampler_params, checkpoint.slat_sampler_params
    asked = questions(arguments.seed, arguments.objects, subject.engine.device, sentences=subject.takes_sentences)
    numbers: Sequence[int | None] = STEPS if arguments.curves else arguments.steps or [None]
    strengths: Sequence[float | None] = STRENGTHS if arguments.curves else sorted(arguments.strength or [None])
    results = []
    unguided: dict[int | None, Result] = {}
    for strength, steps in product(strengths, numbers):
        changes = {"steps": steps, "cfg_strength": strength}
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        structure, latents = (replace(params, **given) for params in recommended)
        start = time.monotonic()
        result = examine(subject, asked, structure, latents, arguments.batch)
        results.append(described(result, structure, latents, unguided.get(steps), time.monotonic() - start))
        show(results[-1])
        if strength == 0:
            unguided[steps] = result
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
