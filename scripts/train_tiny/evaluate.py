"""Evaluate a trained tiny checkpoint on objects that it was not trained on.

    python -m scripts.train_tiny.evaluate --objects 200 --seed 0 --json result.json
    python -m scripts.train_tiny.evaluate --checkpoint embedded-text --objects 200
    python -m scripts.train_tiny.evaluate --objects 48 --steps 2 12 50 --strength 0 2.5 --plot curves.svg

The prompts are images with alpha, or captions if the checkpoint takes text; results are compared with the objects
themselves. The figures are means with the half widths of their 95 % intervals; the last line is JSON. Given several CFG
strengths and numbers of steps, all combinations are evaluated. Where strength 0 was evaluated with the same number of
steps, other strengths are also compared with it object by object, which detects smaller differences than two intervals
do. The plot has a panel for each metric, and a line over the strengths for each number of steps.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks.timing import device_name
from scripts.train_tiny.eval.metrics import summarise
from scripts.train_tiny.eval.samples import RETRIEVAL_SIZE, EvalResult, evaluate, load_model, make_samples

PANELS = {
    "voxel_iou": "voxels, IoU with one voxel of tolerance",
    "silhouette_iou": "silhouette in the prompt's view, IoU",
    "behind_iou": "silhouette from behind, IoU",
    "colour_error": "colour in the prompt's view, mean error (less is better)",
}


def show(figures: dict[str, Any]) -> None:
    """Print a line for people, and one with the differences from strength 0."""
    settings = f"{figures['structure']['steps']:3} steps at {figures['structure']['cfg_strength']:4}"
    print(f"{settings}: {_format(figures)}  matched {figures['matched']:.2f} of {RETRIEVAL_SIZE}", flush=True)
    if "less_strength_0" in figures:
        print(f"{'less strength 0':>20}: {_format(figures['less_strength_0'])}", flush=True)


def _format(figures: dict[str, Any]) -> str:
    intervals = {name: value for name, value in figures.items() if isinstance(value, list)}
    return "  ".join(f"{name} {mean:.4f} ± {half:.4f}" for name, (mean, half) in intervals.items())


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the plot of results as SVG; the same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    step_counts = sorted({result["structure"]["steps"] for result in results})
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "curves"})
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained", sharex=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for index, steps in enumerate(step_counts):
            line = [result for result in results if result["structure"]["steps"] == steps]
            # Slightly offset, so that the intervals of different lines can be told apart.
            strengths = [result["structure"]["cfg_strength"] + 0.06 * (index - 2) for result in line]
            means, halves = zip(*(result[name] for result in line), strict=True)
            colour = plt.get_cmap("viridis")(0.9 * index / max(1, len(step_counts) - 1))
            style = {"color": colour, "marker": "o", "markersize": 3, "capsize": 2}
            axis.errorbar(strengths, means, halves, **style, label=f"{steps} steps")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("guidance strength of both samplers")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first object among those held out")
    parser.add_argument("--steps", type=int, nargs="+", help="of both samplers, instead of the checkpoint's own")
    parser.add_argument("--strength", type=float, nargs="+", help="CFG strength of both samplers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint, arguments.device)
    checkpoint = model.engine.checkpoint
    recommended = checkpoint.sparse_structure_sampler_params, checkpoint.slat_sampler_params
    samples = make_samples(arguments.seed, arguments.objects, model.engine.device, text=model.takes_text)
    results = []
    unguided: dict[int | None, EvalResult] = {}
    for strength, steps in product(sorted(arguments.strength or [None]), arguments.steps or [None]):
        changes = {"steps": steps, "cfg_strength": strength}
        overrides: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        structure, latents = (replace(params, **overrides) for params in recommended)
        start = time.monotonic()
        result = evaluate(model, samples, structure, latents)
        figures: dict[str, Any] = {"structure": structure.published(), "latents": latents.published()}
        figures |= summarise(result.metrics)
        figures |= {"matched": round(result.matched, 4), "seconds": round(time.monotonic() - start, 1)}
        if steps in unguided:
            figures["less_strength_0"] = summarise(result.metrics, unguided[steps].metrics)
        results.append(figures)
        show(figures)
        if strength == 0:
            unguided[steps] = result
    content = {name: getattr(arguments, name) for name in ("checkpoint", "objects", "seed")}
    content |= {"device": device_name(model.engine.device), "torch": torch.__version__, "results": results}
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.plot:
        plot(results, arguments.plot)
    print(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
