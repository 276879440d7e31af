"""Files of the checkpoints that scripts make, as the loaders of the pipeline read them: networks, tokenizers and what
puts them together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from pipeline.params import SamplerParams
from pipeline.trellis.checkpoint import Network, build_network

# Name of upstream's pipeline and key of the encoder, by what the prompts are.
_KINDS = {
    "image": ("TrellisImageTo3DPipeline", "image_cond_model"),
    "text": ("TrellisTextTo3DPipeline", "text_cond_model"),
}
START, END = "<|startoftext|>", "<|endoftext|>"


def save_network(network: Network, class_name: str, args: dict[str, Any], stem: Path) -> None:
    """Write the pair of files; blocks in float16 as the public checkpoints have them."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({"name": class_name, "args": args}, indent=2) + "\n")
    half = build_network(class_name, args)
    half.to_precision(torch.float16)
    dtypes = {name: tensor.dtype for name, tensor in half.state_dict().items()}
    tensors = {name: tensor.to(dtypes[name]).contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, stem.with_suffix(".safetensors"))


def save_pipeline(
    directory: Path,
    kind: Literal["image", "text"],
    *,
    models: Mapping[str, str],
    encoder: str,
    settings: SamplerParams,
    statistics: Mapping[str, Sequence[float]],
) -> None:
    """Write pipeline.json: `models` by role and the encoder's directory, relative to it or absolute; the settings
    recommended for both samplers; the latents' mean and std, 8 numbers each."""
    name, encoder_key = _KINDS[kind]
    sampler = {
        "name": "FlowEulerGuidanceIntervalSampler",
        "args": {"sigma_min": 1e-5},
        "params": settings.published(),
    }
    config = {
        "models": dict(models),
        "sparse_structure_sampler": sampler,
        "slat_sampler": sampler,
        "slat_normalization": dict(statistics),
        encoder_key: encoder,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pipeline.json").write_text(json.dumps({"name": name, "args": config}, indent=2) + "\n")


def save_tokenizer(directory: Path, merges: Sequence[tuple[str, str]] = ()) -> int:
    """Write vocab.json and merges.txt as CLIP's tokenizer reads them; returns the size of the vocabulary.

    Tokens are single bytes, those that end a word apart, and what the pairs of `merges` make of them, in order.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(tokens)
