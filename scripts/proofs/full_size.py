"""One generation with networks of the public image-large checkpoint's size and random weights: time and memory.

    python scripts/proofs/full_size.py [--voxels 16000] [--repeats 3]

The structure decoder runs, but a spherical shell of voxels takes its place, since random weights make no object.
The last line is JSON. Recorded results: full_size.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, cast

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from pipeline import Compute, Generator, ImagePrompt, Request, SamplerParams, choose
from pipeline.background import BackgroundRemover
from pipeline.conditioning import ImageEncoder
from pipeline.trellis import SparseStructureDecoder
from pipeline.trellis.checkpoint import build_network, load_checkpoint
from scripts.make_tiny_checkpoint import FLOW_ARGS, NETWORKS, PIPELINE

FLOW = {**FLOW_ARGS, "model_channels": 1024, "cond_channels": 1024, "num_blocks": 24, "num_heads": 16}
DECODER = NETWORKS["slat_dec_gs_tiny"][1] | {"model_channels": 768, "num_blocks": 12, "num_heads": 12}
FULL_SIZE: dict[str, tuple[str, dict[str, Any]]] = {
    "ss_flow_tiny": ("SparseStructureFlowModel", {"resolution": 16, **FLOW, "patch_size": 1}),
    "ss_dec_tiny": (
        "SparseStructureDecoder",
        NETWORKS["ss_dec_tiny"][1] | {"channels": [512, 128, 32], "num_res_blocks": 2, "num_res_blocks_middle": 2},
    ),
    "slat_flow_tiny": (
        "ElasticSLatFlowModel",
        {"resolution": 64, **FLOW, "num_io_res_blocks": 2, "io_block_channels": [128]},
    ),
    "slat_dec_gs_tiny": ("ElasticSLatGaussianDecoder", DECODER),
}
STRUCTURE = SamplerParams(steps=50, cfg_strength=9.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
LATENTS = SamplerParams(steps=35, cfg_strength=4.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


def write_checkpoint(directory: Path) -> None:
    """Random weights of stable scale in upstream's form, the image encoder beside them."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    (directory / "ckpts").mkdir()
    (directory / "pipeline.json").write_text(json.dumps(PIPELINE))
    for name, (class_name, args) in FULL_SIZE.items():
        network = build_network(class_name, args).to_empty(device="cuda")
        network.to_precision(torch.float16)
        for tensor in network.state_dict().values():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 0
            tensor.normal_(0, fan_in**-0.5) if fan_in else tensor.fill_(0.02)
        save_file(network.state_dict(), directory / "ckpts" / f"{name}.safetensors")
        (directory / "ckpts" / f"{name}.json").write_text(json.dumps({"name": class_name, "args": args}))
    config = Dinov2WithRegistersConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14
    )
    Dinov2WithRegistersModel(config).save_pretrained(directory / "image_encoder")


def occupy_shell(decoder: SparseStructureDecoder, voxels: int) -> None:
    """Let the decoder run, then return logits that occupy the `voxels` voxels nearest to a sphere."""

    def shell(_module: Any, _arguments: Any, logits: Tensor) -> Tensor:
        axis = (torch.arange(64, device=logits.device) + 0.5) / 64 - 0.5
        radii = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
        # A layer 1.3 voxels thick on a sphere of this radius has about that many voxels.
        distance = (radii - (voxels / (4 * torch.pi * 1.3)) ** 0.5 / 64).abs()
        threshold = distance.flatten().kthvalue(voxels).values
        return torch.where(distance <= threshold, 1.0, -1.0).expand_as(logits)

    decoder.register_forward_hook(shell)


def load(directory: Path, compute: Compute, voxels: int) -> Generator:
    """What Generator.load does, without background removal, which the prompt makes needless."""
    checkpoint = load_checkpoint(directory, compute.device, compute.dtype)
    occupy_shell(checkpoint.structure_decoder, voxels)
    encoder = ImageEncoder(directory / "image_encoder", compute.device)
    return Generator(checkpoint, encoder, cast(BackgroundRemover, None), compute)


def prompt() -> ImagePrompt:
    """A disc with alpha, so that no background model is needed."""
    image = Image.new("RGBA", (512, 512))
    ImageDraw.Draw(image).ellipse((100, 100, 400, 400), fill=(200, 60, 40, 255))
    return ImagePrompt(image, "disc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=16000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    compute = choose("cuda")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        torch.cuda.empty_cache()
        start = time.perf_counter()
        generator = load(Path(folder), compute, arguments.voxels)
        torch.cuda.synchronize()
        load_seconds = time.perf_counter() - start
    loaded = torch.cuda.memory_allocated() / 2**30
    runs = []
    for repeat in range(arguments.repeats + 1):
        torch.cuda.reset_peak_memory_stats()
        asset = generator.generate(Request(prompt(), repeat, STRUCTURE, LATENTS))
        if repeat:
            runs.append(asset.seconds)
        print(f"run {repeat}: {asset.voxels} voxels, {len(asset.splats)} gaussians, {asset.seconds}")
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "compute": compute.reason,
        "voxels": asset.voxels,
        "load_seconds": round(load_seconds, 2),
        "loaded_gib": round(loaded, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
        "median_seconds": {stage: round(median(run[stage] for run in runs), 4) for stage in runs[0]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
