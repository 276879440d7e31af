"""See what becomes of pictures whose background no model removes well: a typed refusal or an object, never a slab.

    python -m scripts.validation.defeats --pictures 20

Takes the first composites, see scripts.validation.composites, of which every model's matte is off by more than half,
cuts them out as phase4 does, and generates what is not refused with the embedded checkpoint at the demo phase's
settings. A slab is what becomes of a ground that is taken for the object: flat, and as seen from the front it fills its
bounding box. The last line is JSON. Exit code 1: something became a slab. Needs scikit-image, from the extra demo.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch

from pipeline import CutOutParams, ImagePrompt, PromptError
from pipeline.conditioning.matte_measures import intersection_over_union
from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import prepare_picture
from pipeline.trellis.structure_decoder import occupied_voxels
from scripts.benchmarks.workload import phase_params
from scripts.train_tiny.data.rendering import PROMPT_AZIMUTH
from scripts.train_tiny.eval.samples import load_model, sample_structure
from scripts.validation.composites import Composite, make_composite

MODELS = ("u2net", "u2netp")
# Intersection over union with the true mask.
DEFEATED = 0.5
# Share of the bounding box, from the front; smallest by largest extent in voxels.
FILLED, FLAT = 0.9, 0.25


def defeating_composites(matting: MattingModels, first: int) -> Iterator[tuple[Composite, float]]:
    """Yield composites that defeat all models, from a number on, with the best model's IoU."""
    for number in count(first):
        composite = make_composite(number, tested=number % 2 == 1, azimuth=PROMPT_AZIMUTH)
        mattes = [matting.removers[model](composite.picture).getchannel("A") for model in MODELS]
        best = max(intersection_over_union(np.asarray(matte) / 255, composite.alpha) for matte in mattes)
        if best < DEFEATED:
            yield composite, best


def shape_of(voxels: torch.Tensor) -> dict[str, float]:
    """Return how flat voxels [N, 3] are, and how much of its bounding box their front view (x, z) fills."""
    extents = (voxels.amax(0) - voxels.amin(0) + 1).tolist()
    front = len(voxels[:, [0, 2]].unique(dim=0)) / (extents[0] * extents[2])
    return {"flatness": round(min(extents) / max(extents), 3), "filled": round(front, 3)}


@torch.inference_mode()
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first composite")
    arguments = parser.parse_args()
    matting, model = MattingModels(MODELS), load_model("embedded", "cpu")
    structure, _ = phase_params("demo")
    outcomes: list[dict[str, Any]] = []
    for composite, best in defeating_composites(matting, arguments.first):
        outcome: dict[str, Any] = {"kind": composite.kind, "iou": round(best, 3)}
        try:
            prepared = prepare_picture(ImagePrompt(composite.picture, b"", CutOutParams(MODELS)), matting)
        except PromptError as error:
            outcome["refused"] = type(error).__name__
        else:
            logits = sample_structure(model, model.conditions(prepared.picture), composite.seed % 2**31, structure)
            voxels = occupied_voxels(logits)[:, 1:]
            outcome |= {"voxels": len(voxels)} | shape_of(voxels) if len(voxels) else {"refused": "EmptyStructure"}
        outcome["slab"] = outcome.get("filled", 0.0) > FILLED and outcome.get("flatness", 1.0) < FLAT
        outcomes.append(outcome)
        print(outcome, flush=True)
        if len(outcomes) == arguments.pictures:
            break
    slabs = sum(outcome["slab"] for outcome in outcomes)
    refused = sum("refused" in outcome for outcome in outcomes)
    print(f"{len(outcomes)} pictures that defeat all models: {refused} refused, {slabs} slabs")
    print(json.dumps({"pictures": len(outcomes), "refused": refused, "slabs": slabs, "outcomes": outcomes}))
    return 1 if slabs else 0


if __name__ == "__main__":
    sys.exit(main())
