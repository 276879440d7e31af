"""Write checkpoints that the loaders of the pipeline read: networks, tokenizers and pipeline.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from pipeline.params import SamplerParams
from pipeline.trellis.checkpoint import Network, build_network
from pipeline.weights.files import PIPELINE_FILE

# Name of upstream's pipeline and key of the encoder, by kind of prompt.
_KINDS = {
    "image": ("TrellisImageTo3DPipeline", "image_cond_model"),
    "text": ("TrellisTextTo3DPipeline", "text_cond_model"),
}
START, END = "<|startoftext|>", "<|endoftext|>"


def save_network(network: Network, class_name: str, args: dict[str, Any], stem: Path) -> None:
    """Write a network's two files; blocks are stored in float16, as in the public checkpoints."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({"name": class_name, "args": args}, indent=2) + "\n")
    half = build_network(class_name, args)
    half.to_precision(torch.float16)
    dtypes = {name: tensor.dtype for name, tensor in half.state_dict().items()}
    tensors = {name: tensor.to(dtypes[name]).contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, stem.with_suffix(".safetensors"))


def save_pipeline(
    directory: Path, kind: Literal["image", "text"], *, models: Mapping[str, str], encoder: str,
    settings: SamplerParams, statistics: Mapping[str, Sequence[float]],
) -> None:  # fmt: skip
    """Write pipeline.json.

    models:     path or reference of each network by role; relative paths are relative to `directory`.
    encoder:    directory of the encoder, relative to `directory` or absolute.
    settings:   recommended settings of both samplers.
    statistics: mean and std of the latents, 8 numbers each.
    """
    name, encoder_key = _KINDS[kind]
    sampler = {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": settings.published()}
    config = {"models": dict(models), "sparse_structure_sampler": sampler, "slat_sampler": sampler}
    config |= {"slat_normalization": dict(statistics), encoder_key: encoder}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PIPELINE_FILE).write_text(json.dumps({"name": name, "args": config}, indent=2) + "\n")


def save_tokenizer(directory: Path, merges: Sequence[tuple[str, str]] = ()) -> int:
    """Write vocab.json and merges.txt for CLIP's tokenizer; return the size of the vocabulary.

    Tokens are single bytes, bytes that end a word, and the pairs of `merges`, joined, in order.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(tokens)
