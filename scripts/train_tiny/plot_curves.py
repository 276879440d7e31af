"""Plot the metrics of generated objects over CFG strength and steps.

    python -m scripts.train_tiny.plot_curves curves.json -o curves.svg

`scripts.train_tiny.evaluate --curves --json` writes curves.json. There is a panel for each metric and a line for each
number of steps, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

PANELS = {
    "voxel_iou": "voxels, IoU with one voxel of tolerance",
    "silhouette_iou": "silhouette in the prompt's view, IoU",
    "behind_iou": "silhouette from behind, IoU",
    "colour_error": "colour in the prompt's view, mean error (less is better)",
}


def plot(evaluation: dict[str, Any], path: Path) -> None:
    """Write the plot of an evaluation; the same figures give the same file."""
    results = evaluation["results"]
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
            axis.errorbar(
                strengths, means, halves, color=colour, marker="o", markersize=3, capsize=2, label=f"{steps} steps"
            )
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("guidance strength of both samplers")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    plot(json.loads(arguments.curves.read_text()), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
