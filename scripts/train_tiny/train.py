"""Train the tiny checkpoints: python scripts/train_tiny/train.py --work DIR [--only STAGE ...]

Runs the stages whose files are missing from DIR, then writes DIR/checkpoints if all are there. Needs a GPU; nothing is
downloaded. DIR/log.jsonl holds the losses. A stage that was cut short leaves no file and starts anew; files of earlier
stages can be brought from elsewhere, those of the shipped checkpoints as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline import SamplerParams
from pipeline.trellis.checkpoint import build_network
from pipeline.weights.checkpoint_writer import save_network, save_pipeline
from scripts.train_tiny.architecture import NETWORKS
from scripts.train_tiny.pool import make_pool
from scripts.train_tiny.prompts import FINAL_TEXT_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from scripts.train_tiny.stages import STAGES, Stage
from scripts.train_tiny.words import write_tokenizer
from scripts.train_tiny.workplace import Workplace

ROLES = {
    "sparse_structure_flow_model": "ss_flow_tiny",
    "sparse_structure_decoder": "ss_dec_tiny",
    "slat_flow_model": "slat_flow_tiny",
    "slat_decoder_gs": "slat_dec_gs_tiny",
}
SETTINGS = SamplerParams(steps=12, cfg_strength=0.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


def assemble(work: Path, directory: Path) -> None:
    """Write the two checkpoints in upstream's form, blocks in float16: "tiny" for pictures, and "tiny-text", which has
    an encoder of its own and takes the other's networks."""
    from transformers import CLIPTextModel, Dinov2WithRegistersModel

    images, texts = directory / "tiny", directory / "tiny-text"
    for stem, (class_name, args) in NETWORKS.items():
        network = build_network(class_name, args)
        network.load_state_dict(load_file(work / f"{stem}.safetensors"), assign=True)
        save_network(network, class_name, args, images / "ckpts" / stem)
    for source, encoder, target in (
        (work / IMAGE_ENCODER, Dinov2WithRegistersModel, images / IMAGE_ENCODER),
        (work / FINAL_TEXT_ENCODER, CLIPTextModel, texts / TEXT_ENCODER),
    ):
        encoder.from_pretrained(source, local_files_only=True).half().save_pretrained(target)
    write_tokenizer(texts / TEXT_ENCODER)
    statistics = {key: value.tolist() for key, value in load_file(work / "latent_statistics.safetensors").items()}
    models = {role: f"ckpts/{stem}" for role, stem in ROLES.items()}
    save_pipeline(images, "image", models=models, encoder=IMAGE_ENCODER, settings=SETTINGS, statistics=statistics)
    models = {role: f"../{images.name}/{path}" for role, path in models.items()}
    save_pipeline(texts, "text", models=models, encoder=TEXT_ENCODER, settings=SETTINGS, statistics=statistics)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pace", type=float, default=1.0, help="times the seconds of each stage")
    parser.add_argument(
        "--within", type=float, default=math.inf, help="seconds; no stage gets less than half of its own"
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--objects", type=int, default=48_000, help="to make and train on")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs, which is slower")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    missing = [name for name in arguments.only if not _is_done(STAGES[name], work)]
    if missing:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        start = time.monotonic()
        pool = make_pool(arguments.objects, torch.device(arguments.device))
        print(f"{len(pool.captions)} objects in {time.monotonic() - start:.0f} s", flush=True)
        place = Workplace(work, pool, work / "log.jsonl", torch.Generator().manual_seed(1), not arguments.eager)
        for name in missing:
            remaining = arguments.within - (time.monotonic() - start)
            seconds = arguments.pace * STAGES[name].seconds
            if remaining < seconds / 2:
                print(f"{name} is not begun: {remaining:.0f} of its {seconds:.0f} s remain", file=sys.stderr)
                return 1
            STAGES[name].run(place, min(seconds, remaining))
    if all(_is_done(stage, work) for stage in STAGES.values()):
        assemble(work, work / "checkpoints")
        print(f"{work / 'checkpoints'} is complete")
    return 0


def _is_done(stage: Stage, work: Path) -> bool:
    return all((work / f"{file}.safetensors").is_file() for file in stage.files)


if __name__ == "__main__":
    sys.exit(main())
