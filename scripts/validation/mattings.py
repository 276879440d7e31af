"""Fit the rule that chooses among mattes on composites whose masks are known, and measure what it gains.

    python -m scripts.validation.mattings --composites 120
    python -m scripts.validation.mattings --models u2netp birefnet-general-lite --sheet sheet.png

Composites are made in two halves with other kinds of grounds, see scripts.validation.composites. Each half is tested
with weights that are fitted on the other; the weights that are printed at the end are fitted on both. Gains have 95 %
intervals of the bootstrap over composites. Also measured: what decontamination does to the colours of soft edges, and
the seconds that one picture takes. The last line is JSON. Needs scikit-image, from the extra demo.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.conditioning import matte_choice
from pipeline.conditioning.background import BackgroundRemover
from pipeline.conditioning.foreground import decontaminate
from pipeline.conditioning.matte_measures import MatteMeasures, intersection_over_union, measure_mattes
from scripts.validation.composites import KINDS, Composite, make_composite

# Of the ridge regression; the intercept is not shrunk.
SHRINKAGE = 0.1
RESAMPLES = 10_000
_THUMBNAIL = 110

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """A composite with the matte of each model, its measures and its IoU with the true mask."""

    composite: Composite
    mattes: tuple[Image.Image, ...]
    measures: tuple[MatteMeasures, ...]
    ious: tuple[float, ...]


def judge(composite: Composite, removers: Sequence[BackgroundRemover]) -> Judged:
    """Run the models on a composite."""
    mattes = tuple(remover(composite.picture).getchannel("A") for remover in removers)
    ious = tuple(intersection_over_union(np.asarray(matte) / 255, composite.alpha) for matte in mattes)
    return Judged(composite, mattes, tuple(measure_mattes(mattes)), ious)


def fit(judged: Sequence[Judged]) -> Floats:
    """Return the weights of `matte_choice.features` that predict the IoU of single mattes best."""
    rows = [matte_choice.features(measures) for one in judged for measures in one.measures]
    x, y = np.array(rows), np.array([iou for one in judged for iou in one.ious])
    penalty = SHRINKAGE * np.eye(x.shape[1])
    penalty[0, 0] = 0
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y))


def choose(judged: Sequence[Judged], weights: Floats) -> Floats:
    """Return the IoU of the matte that the rule takes with some weights, 0 where it takes none."""
    chosen = [matte_choice.choose_matte(one.measures, weights.tolist()) for one in judged]
    return np.array([0.0 if index is None else one.ious[index] for one, index in zip(judged, chosen, strict=True)])


def interval(values: Floats) -> tuple[float, float, float]:
    """Return a mean and its 95 % interval of the bootstrap."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def edge_errors(one: Judged) -> tuple[float, float] | None:
    """Return mean errors of colour in 0..255 at soft edges of the true mask, before and after decontamination.

    None for a composite without soft edges.
    """
    alpha, picture = one.composite.alpha, one.composite.picture
    edge = (alpha > 0.1) & (alpha < 0.9)
    if not edge.any():
        return None
    matte = Image.fromarray((alpha * 255).round().astype(np.uint8))
    true = one.composite.colours[edge] * 255
    before, after = np.asarray(picture)[edge], np.asarray(decontaminate(picture, matte))[edge, :3]
    return float(np.abs(before - true).mean()), float(np.abs(after - true).mean())


def draw_sheet(judged: Sequence[Judged], chosen: Floats, path: Path, columns: int = 12) -> None:
    """Draw the composites on whose mattes the models differ most: picture and mattes, the one that was taken framed."""
    order = sorted(range(len(judged)), key=lambda index: min(judged[index].ious) - max(judged[index].ious))
    rows = len(judged[0].mattes) + 1
    sheet = Image.new("RGB", (columns * _THUMBNAIL, 2 * rows * _THUMBNAIL), "grey")
    for place, index in enumerate(order[: 2 * columns]):
        one, left, top = judged[index], place % columns * _THUMBNAIL, place // columns * rows * _THUMBNAIL
        for row, image in enumerate((one.composite.picture, *one.mattes)):
            is_taken = row > 0 and one.ious[row - 1] == chosen[index]
            frame = Image.new("RGB", (_THUMBNAIL - 2,) * 2, "lime" if is_taken else "black")
            frame.paste(image.convert("RGB").resize((_THUMBNAIL - 8,) * 2), (3, 3))
            sheet.paste(frame, (left, top + row * _THUMBNAIL))
    sheet.save(path)


def seconds_a_picture(remover: BackgroundRemover, picture: Image.Image, repeats: int = 5) -> float:
    """Return the median seconds for one picture once warm."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        remover(picture)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def measure(halves: Sequence[Sequence[Judged]], models: Sequence[str]) -> dict[str, Any]:
    """Return all figures; `halves` are the composites whose weights are fitted on the other half."""
    judged = [one for half in halves for one in half]
    chosen = np.concatenate([choose(half, fit(other)) for half, other in zip(halves, halves[::-1], strict=True)])
    ious = np.array([one.ious for one in judged])
    best = int(ious.mean(axis=0).argmax())
    worst = np.argsort(ious[:, best])[: max(1, len(judged) // 10)]
    columns = np.column_stack([ious, chosen])
    kinds = np.array([one.composite.kind for one in judged])
    present = [kind for kind in KINDS if (kinds == kind).any()]
    edges = np.array([errors for one in judged if (errors := edge_errors(one)) is not None])
    return {
        "composites": len(judged),
        "mean_iou": {model: round(float(ious[:, index].mean()), 4) for index, model in enumerate(models)},
        "chosen": round(float(chosen.mean()), 4),
        "best_possible": round(float(ious.max(axis=1).mean()), 4),
        "gain_over": {model: np.round(interval(chosen - ious[:, i]), 4).tolist() for i, model in enumerate(models)},
        "by_kind": {kind: np.round(columns[kinds == kind].mean(axis=0), 3).tolist() for kind in present},
        "worst_tenth": {
            "of": models[best],
            "mean_iou": np.round(ious[worst].mean(axis=0), 3).tolist(),
            "chosen": round(float(chosen[worst].mean()), 3),
            "gain": np.round(interval(chosen[worst] - ious[worst, best]), 3).tolist(),
        },
        "edge_error": np.round(edges.mean(axis=0), 2).tolist(),
        "weights": np.round(fit(judged), 3).tolist(),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--composites", type=int, default=120, help="of each half")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    removers = [BackgroundRemover(model) for model in arguments.models]
    halves: list[list[Judged]] = [[], []]
    for number in range(arguments.composites):
        for tested in (False, True):
            halves[tested].append(judge(make_composite(number, tested=tested), removers))
    result = measure(halves, arguments.models)
    picture = Image.new("RGB", (1024, 1024), "white")
    seconds = [seconds_a_picture(remover, picture) for remover in removers]
    result["seconds"] = dict(zip(arguments.models, np.round(seconds, 3).tolist(), strict=True))
    for name, value in result.items():
        print(f"{name:14} {value}")
    if arguments.sheet:
        judged = [one for half in halves for one in half]
        draw_sheet(judged, choose(judged, np.array(result["weights"])), arguments.sheet)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
