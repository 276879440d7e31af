"""A small checkpoint for sentences whose flows differ from the embedded ones where upstream's differ from its own."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.params import SamplerParams
from pipeline.trellis.checkpoint import NETWORK_CLASSES
from pipeline.weights.checkpoint_writer import save_network, save_pipeline, save_tokenizer
from pipeline.weights.locate import EMBEDDED, locate
from pipeline.weights.random_init import STATISTICS

SEED = 17
# Different from the embedded checkpoint's, so that the two cannot be confused.
WIDTH, HEADS, TOKENS = 64, 4, 77
FLOW: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 96,
    "cond_channels": WIDTH,
    "num_blocks": 2,
    "num_heads": HEADS,
    "mlp_ratio": 4,
    "patch_size": 2,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_fp16": True,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ss_flow_txt_tiny": ("SparseStructureFlowModel", {**FLOW, "resolution": 16, "qk_rms_norm_cross": True}),
    "slat_flow_txt_tiny": (
        "ElasticSLatFlowModel",
        {**FLOW, "resolution": 64, "num_io_res_blocks": 3, "io_block_channels": [32]},
    ),
}
SETTINGS = SamplerParams(steps=25, cfg_strength=7.5, cfg_interval=(0.5, 0.95), rescale_t=3.0)


@torch.no_grad()
def write_text_checkpoint(directory: Path) -> None:
    """Random weights, which make no object; the decoders are the embedded ones, where they are."""
    generator = torch.Generator().manual_seed(SEED)
    for stem, (class_name, args) in NETWORKS.items():
        network = NETWORK_CLASSES[class_name.removeprefix("Elastic")](**args)
        randomise(network, generator)
        save_network(network, class_name, args, directory / "ckpts" / stem)
    write_text_encoder(directory / "text_encoder", generator)
    decoders = locate(EMBEDDED, "pipeline.json") / "ckpts"
    models = {
        "sparse_structure_flow_model": "ckpts/ss_flow_txt_tiny",
        "sparse_structure_decoder": str(decoders / "ss_dec_tiny"),
        "slat_flow_model": "ckpts/slat_flow_txt_tiny",
        "slat_decoder_gs": str(decoders / "slat_dec_gs_tiny"),
    }
    save_pipeline(directory, "text", models=models, encoder="text_encoder", settings=SETTINGS, statistics=STATISTICS)


def write_text_encoder(directory: Path, generator: torch.Generator) -> None:
    """The text half of a small CLIP, and a tokenizer whose tokens are single bytes."""
    from transformers import CLIPTextConfig, CLIPTextModel

    size = save_tokenizer(directory)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=TOKENS,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    model = CLIPTextModel(config)
    randomise(model, generator)
    model.save_pretrained(directory)


def randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Matrices of N(0, 1 / fan_in), norms of 1 and small biases."""
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            parameter.fill_(1.0)
        elif parameter.ndim == 1:
            parameter.copy_(0.1 * noise)
        else:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
