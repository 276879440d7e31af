"""Draw what guidance and steps do: python scripts/train_tiny/curves.py curves.json -o curves.svg

curves.json is what `evaluate.py --curves --json` writes. One panel for each measure, one line for each number of steps,
with 95 % intervals.
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


def draw(content: dict[str, Any], path: Path) -> None:
    """Write the picture."""
    results = content["results"]
    steps = sorted({result["structure"]["steps"] for result in results})
    # The same file for the same figures.
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "curves"})
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained", sharex=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for number, count in enumerate(steps):
            line = [result for result in results if result["structure"]["steps"] == count]
            # A little beside each other, so that intervals can be told apart.
            strengths = [result["structure"]["cfg_strength"] + 0.06 * (number - 2) for result in line]
            means, halves = zip(*(result[name] for result in line), strict=True)
            colour = plt.get_cmap("viridis")(0.9 * number / max(1, len(steps) - 1))
            axis.errorbar(
                strengths, means, halves, color=colour, marker="o", markersize=3, capsize=2, label=f"{count} steps"
            )
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("guidance strength of both samplers")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    draw(json.loads(arguments.curves.read_text()), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
