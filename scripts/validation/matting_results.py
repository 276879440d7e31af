"""Compare objects made from pictures with textured grounds, cut out by the chosen of several models and by one.

    python -m scripts.validation.matting_results --objects 60

The embedded checkpoint generates, at the demo phase's settings, from composites on which no weights were fitted. The
differences are of the same objects with the same noise, with half the width of their 95 % intervals; a picture that is
refused counts as an object of which nothing is right. The last line is JSON. Needs scikit-image, from the extra demo.
"""

import argparse
import json
import sys

import torch
from PIL import Image

from pipeline import CutOutParams, ImagePrompt, PromptError
from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import PreparedPicture, prepare_picture
from pipeline.scoring.similarity import render_rgba
from scripts.benchmarks.workload import phase_params
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny.data.dataset import FIRST_HELD_OUT_SEED
from scripts.train_tiny.data.rendering import PROMPT_AZIMUTH
from scripts.train_tiny.data.voxels import voxelize
from scripts.train_tiny.eval.metrics import Metrics, compute_metrics, render_object, summarise, view_cameras
from scripts.train_tiny.eval.samples import held_out_object, load_model, sample_splats, sample_structure
from scripts.validation.composites import KINDS, Composite, make_composite

# The first composite that scripts.validation.mattings does not fit on, by default; and the kind of its grounds.
FIRST, KIND = 120, "textured"
# Nothing of the object is right, and no colour can be compared.
REFUSED = Metrics(0.0, 0.0, 0.0, 0.0)


def prepare(composite: Composite, models: tuple[str, ...], matting: MattingModels) -> PreparedPicture | None:
    """Cut out and frame the object with some of the models; None if the picture is refused."""
    try:
        return prepare_picture(ImagePrompt(composite.picture, b"", CutOutParams(models)), matting)
    except PromptError:
        return None


@torch.inference_mode()
def evaluate(model: LoadedCheckpoint, picture: Image.Image, seed: int) -> Metrics:
    """Generate an object from a framed picture, and compare it with that of the seed."""
    structure, latents = phase_params("demo")
    _, single = held_out_object(seed - FIRST_HELD_OUT_SEED, torch.device("cpu"))
    true_views = render_object(single)
    conditions = model.conditions(picture)
    logits = sample_structure(model, conditions, seed % 2**31, structure)
    splats = sample_splats(model, conditions, seed % 2**31, logits, latents)
    views = torch.zeros_like(true_views) if splats is None else render_rgba(splats, view_cameras())
    return compute_metrics(logits[0, 0] > 0, voxelize(single)[0], views, true_views)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--alone", default="u2netp", help="the model that the choice is compared with")
    parser.add_argument("--objects", type=int, default=60)
    arguments = parser.parse_args()
    models = tuple(arguments.models)
    matting, model = MattingModels(models), load_model("embedded", "cpu")
    chosen, alone, refused, differ = [], [], [0, 0], 0
    for index in range(arguments.objects):
        number = FIRST + len(KINDS) * (index // 2) + KINDS.index(KIND)
        composite = make_composite(number, tested=index % 2 == 1, azimuth=PROMPT_AZIMUTH)
        ours, single = prepare(composite, models, matting), prepare(composite, (arguments.alone,), matting)
        refused[0] += ours is None
        refused[1] += single is None
        alone.append(REFUSED if single is None else evaluate(model, single.picture, composite.seed))
        if ours is not None and single is not None and ours.cut_out.model == arguments.alone:
            chosen.append(alone[-1])
        else:
            differ += 1
            chosen.append(REFUSED if ours is None else evaluate(model, ours.picture, composite.seed))
        print(f"{index + 1} of {arguments.objects}", end="\r", file=sys.stderr)
    result = {
        "objects": len(chosen),
        "chosen": summarise(chosen),
        "alone": summarise(alone),
        "difference": summarise(chosen, alone),
        "refused": dict(zip(("chosen", "alone"), refused, strict=True)),
        "cut_out_by_another": differ,
    }
    for name, value in result.items():
        print(f"{name:20} {value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
