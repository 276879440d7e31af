"""Train the tiny checkpoints.

    python -m scripts.train_tiny.train --work DIR [--only STAGE ...]

Runs the stages whose files are missing from DIR, then writes DIR/checkpoints if all files exist. Needs a GPU, and
transformers, which is in the extra dev; nothing is downloaded. DIR/log.jsonl holds the losses. A stage that was
interrupted leaves no file and starts again from the beginning; files of earlier stages can be copied from elsewhere,
also from the shipped checkpoints.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline import SamplerParams
from pipeline.trellis.checkpoint import build_network
from pipeline.weights.checkpoint_writer import save_network, save_pipeline
from pipeline.weights.files import NETWORK_ROLES
from scripts.train_tiny.architecture import NETWORKS
from scripts.train_tiny.data.dataset import make_dataset
from scripts.train_tiny.training import latents, structure
from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.prompt_encoders import FINAL_TEXT_ENCODER, IMAGE_ENCODER, TEXT_ENCODER, write_tokenizer

SAMPLER_PARAMS = SamplerParams(steps=12, cfg_strength=0.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


@dataclass(frozen=True)
class Stage:
    """A stage, the stems of the files it writes, and the seconds it takes on one H100."""

    train: Callable[[TrainingContext, float], None]
    files: tuple[str, ...]
    seconds: float

    def is_done(self, folder: Path) -> bool:
        """Return whether all files of the stage exist."""
        return all((folder / f"{file}.safetensors").is_file() for file in self.files)


STAGES = {
    "structure_vae": Stage(structure.train_structure_vae, ("ss_dec_tiny", "structure_encoder"), 80),
    "structure_flow": Stage(
        structure.train_structure_flow, ("ss_flow_tiny", f"{IMAGE_ENCODER}/model", f"{TEXT_ENCODER}/model"), 470
    ),
    "gaussian_decoder": Stage(latents.train_gaussian_decoder, ("slat_dec_gs_tiny",), 80),
    "latent_flow": Stage(latents.train_latent_flow, ("slat_flow_tiny", latents.STATISTICS), 380),
    "text_encoder": Stage(latents.train_text_encoder, (f"{FINAL_TEXT_ENCODER}/model",), 240),
}


def write_checkpoints(work: Path, directory: Path) -> None:
    """Write the two checkpoints in upstream's format, with blocks in float16.

    "tiny" takes images; "tiny-text" has an encoder of its own and refers to the networks of "tiny".
    """
    from transformers import CLIPTextModel, Dinov2WithRegistersModel

    image, text = directory / "tiny", directory / "tiny-text"
    for stem, (class_name, args) in NETWORKS.items():
        network = build_network(class_name, args)
        network.load_state_dict(load_file(work / f"{stem}.safetensors"), assign=True)
        save_network(network, class_name, args, image / "ckpts" / stem)
    for source, encoder, target in (
        (work / IMAGE_ENCODER, Dinov2WithRegistersModel, image / IMAGE_ENCODER),
        (work / FINAL_TEXT_ENCODER, CLIPTextModel, text / TEXT_ENCODER),
    ):
        encoder.from_pretrained(source, local_files_only=True).half().save_pretrained(target)
    write_tokenizer(text / TEXT_ENCODER)
    statistics = {key: value.tolist() for key, value in load_file(work / f"{latents.STATISTICS}.safetensors").items()}
    models = {role: f"ckpts/{stem}" for role, stem in zip(NETWORK_ROLES, NETWORKS, strict=True)}
    save_pipeline(image, "image", models=models, encoder=IMAGE_ENCODER, settings=SAMPLER_PARAMS, statistics=statistics)
    models = {role: f"../{image.name}/{path}" for role, path in models.items()}
    save_pipeline(text, "text", models=models, encoder=TEXT_ENCODER, settings=SAMPLER_PARAMS, statistics=statistics)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pace", type=float, default=1.0, help="factor on the seconds of each stage")
    parser.add_argument(
        "--within", type=float, default=math.inf, help="seconds for all; a stage needs at least half of its own"
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--objects", type=int, default=48_000, help="number of objects to make and train on")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    missing = [name for name in arguments.only if not STAGES[name].is_done(work)]
    if missing:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        start = time.monotonic()
        dataset = make_dataset(arguments.objects, torch.device(arguments.device))
        print(f"{len(dataset.captions)} objects in {time.monotonic() - start:.0f} s", flush=True)
        context = TrainingContext(work, dataset, torch.Generator().manual_seed(1))
        for name in missing:
            remaining = arguments.within - (time.monotonic() - start)
            seconds = arguments.pace * STAGES[name].seconds
            if remaining < seconds / 2:
                print(f"{name} is not started: {remaining:.0f} of its {seconds:.0f} s remain", file=sys.stderr)
                return 1
            STAGES[name].train(context, min(seconds, remaining))
    if all(stage.is_done(work) for stage in STAGES.values()):
        write_checkpoints(work, work / "checkpoints")
        print(f"{work / 'checkpoints'} is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
