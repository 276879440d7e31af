"""Train the tiny checkpoint: python scripts/train_tiny/train.py --work DIR [--seconds 400] [--only STAGE ...]

Runs the stages whose files are missing from DIR, each for so many seconds, then writes DIR/checkpoint if all are there.
Needs a GPU; nothing is downloaded. DIR/log.jsonl holds the losses. A stage that was cut short leaves no file and starts
anew; files of earlier stages can be brought from elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.trellis.checkpoint import build_network
from scripts.make_tiny_checkpoint import SETTINGS, pipeline_json, save_network
from scripts.train_tiny.architecture import NETWORKS, image_encoder
from scripts.train_tiny.pool import make_pool
from scripts.train_tiny.stages import STAGES, Workplace

MODELS = {
    "sparse_structure_flow_model": "ckpts/ss_flow_tiny",
    "sparse_structure_decoder": "ckpts/ss_dec_tiny",
    "slat_flow_model": "ckpts/slat_flow_tiny",
    "slat_decoder_gs": "ckpts/slat_dec_gs_tiny",
}


def assemble(work: Path, directory: Path) -> None:
    """Write the checkpoint in upstream's form, blocks in float16."""
    for stem, (class_name, args) in NETWORKS.items():
        network = build_network(class_name, args)
        network.load_state_dict(load_file(work / f"{stem}.safetensors"), assign=True)
        save_network(network, class_name, args, directory / "ckpts" / stem)
    encoder = image_encoder()
    encoder.load_state_dict(load_file(work / "image_encoder.safetensors"))
    encoder.layernorm = nn.LayerNorm(encoder.config.hidden_size, eps=encoder.config.layer_norm_eps)
    encoder.half().save_pretrained(directory / "image_encoder")
    statistics = load_file(work / "latent_statistics.safetensors")
    config = pipeline_json("TrellisImageTo3DPipeline", MODELS, SETTINGS, {"image_cond_model": "image_encoder"})
    config["args"]["slat_normalization"] = {key: statistics[key].tolist() for key in ("mean", "std")}
    (directory / "pipeline.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400, help="for each stage")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--objects", type=int, default=60_000, help="to make and train on")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    missing = [
        name
        for name, (_, files) in STAGES.items()
        if name in arguments.only and not all((work / f"{file}.safetensors").is_file() for file in files)
    ]
    if missing:
        torch.manual_seed(0)
        start = time.monotonic()
        pool = make_pool(arguments.objects, torch.device(arguments.device))
        print(f"{len(pool.objects)} objects in {time.monotonic() - start:.0f} s", flush=True)
        generator = torch.Generator().manual_seed(1)
        place = Workplace(work, pool, arguments.seconds, arguments.batch, generator)
        for name in missing:
            STAGES[name][0](place, work / "log.jsonl")
    if all((work / f"{file}.safetensors").is_file() for _, files in STAGES.values() for file in files):
        assemble(work, work / "checkpoint")
        print(f"{work / 'checkpoint'} is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
