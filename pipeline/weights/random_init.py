"""Checkpoints of the public ones' sizes with random weights, for measuring time and memory."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.encoders.clip import ClipText, ClipTextSizes, ClipVision, ClipVisionSizes
from pipeline.encoders.dinov2 import MASK_TOKEN, Dinov2, Dinov2Sizes
from pipeline.encoders.settings import EncoderSettings
from pipeline.params import SamplerParams
from pipeline.scoring.convnext_clip import Architecture, ConvNextClip
from pipeline.scoring.lpips import create_alexnet
from pipeline.trellis.checkpoint import build_network
from pipeline.weights.checkpoint_writer import save_network, save_pipeline, save_tokenizer
from pipeline.weights.files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS

STATISTICS = {"mean": [0.0] * 8, "std": [2.4] * 8}
SETTINGS = SamplerParams(steps=25, cfg_strength=5.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
GAUSSIANS = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True, "voxel_size": 1.5, "num_gaussians": 32,
    "2d_filter_kernel_size": 0.1, "3d_filter_kernel_size": 9e-4,
    "scaling_bias": 4e-3, "opacity_bias": 0.1, "scaling_activation": "softplus",
}  # fmt: skip
FLOW = {"in_channels": 8, "out_channels": 8, "mlp_ratio": 4, "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True}
STRUCTURE_FLOW = {**FLOW, "resolution": 16, "patch_size": 1}
LATENT_FLOW = {**FLOW, "resolution": 64, "patch_size": 2}
LARGE = {"model_channels": 1024, "cond_channels": 1024, "num_blocks": 24, "num_heads": 16}
XLARGE = {"model_channels": 1280, "cond_channels": 768, "num_blocks": 28, "num_heads": 16}
STRUCTURE_DECODER = {
    "out_channels": 1, "latent_channels": 8, "channels": [512, 128, 32],
    "num_res_blocks": 2, "num_res_blocks_middle": 2, "use_fp16": True,
}  # fmt: skip
GAUSSIAN_DECODER = {
    "resolution": 64, "model_channels": 768, "latent_channels": 8, "num_blocks": 12, "num_heads": 12, "mlp_ratio": 4,
    "attn_mode": "swin", "window_size": 8, "use_fp16": True, "representation_config": GAUSSIANS,
}  # fmt: skip
Networks = dict[str, tuple[str, dict[str, Any]]]
DECODERS: Networks = {
    "sparse_structure_decoder": ("SparseStructureDecoder", STRUCTURE_DECODER),
    "slat_decoder_gs": ("ElasticSLatGaussianDecoder", GAUSSIAN_DECODER),
}


CONVNEXT_LARGE_D = Architecture(
    depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), width=768, layers=16, heads=12, context=77, vocabulary=49408,
    hidden=1536, embedding=768,
)  # fmt: skip
CLIP_VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 336, "hidden_act": "quick_gelu", "projection_dim": 1280,
}  # fmt: skip
CLIP_TEXT = {
    "model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip
DINOV2 = {"image_size": 518, "patch_size": 14, "mlp_ratio": 4, "hidden_act": "gelu", "qkv_bias": True}
DINOV2_LARGE = {
    **DINOV2, "model_type": "dinov2_with_registers", "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_register_tokens": 4,
}  # fmt: skip
DINOV2_SMALL = {
    **DINOV2, "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
}  # fmt: skip


def _networks(structure_flow: dict[str, Any], latent_flow: dict[str, Any]) -> Networks:
    return {
        "sparse_structure_flow_model": ("SparseStructureFlowModel", {**STRUCTURE_FLOW, **structure_flow}),
        "slat_flow_model": ("ElasticSLatFlowModel", {**LATENT_FLOW, **latent_flow}),
        **DECODERS,
    }


# Class name and arguments of each network, as the published JSON files have them, by checkpoint and role.
CHECKPOINTS = {
    "image-large": _networks(LARGE, {**LARGE, "num_io_res_blocks": 2, "io_block_channels": [128]}),
    "text-xlarge": _networks(
        {**XLARGE, "qk_rms_norm_cross": True}, {**XLARGE, "num_io_res_blocks": 3, "io_block_channels": [256]}
    ),
}


def write_checkpoint(name: str, directory: Path, device: str) -> None:
    """Write a checkpoint and its encoder into a directory that is loaded like a published one.

    The weights have a stable scale and generate no object. They are drawn on `device`, and are the same each time.
    """
    torch.manual_seed(0)
    for role, (class_name, args) in CHECKPOINTS[name].items():
        network = build_network(class_name, args).to_empty(device=device)
        network.to_precision(torch.float16)
        _draw_weights(network)
        save_network(network, class_name, args, directory / "ckpts" / role)
    kind: Literal["image", "text"] = "image" if name.startswith("image") else "text"
    models = {role: f"ckpts/{role}" for role in CHECKPOINTS[name]}
    save_pipeline(directory, kind, models=models, encoder="encoder", settings=SETTINGS, statistics=STATISTICS)
    write_encoder(kind, directory / "encoder", device)


def _draw_weights(network: nn.Module) -> None:
    for tensor in network.state_dict().values():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 0
        tensor.normal_(0, fan_in**-0.5) if fan_in else tensor.fill_(0.02)


def write_encoder(kind: Literal["image", "text"], directory: Path, device: str) -> None:
    """Write DINOv2-L/14 with registers, or the text model of CLIP ViT-L/14 with a vocabulary of single bytes."""
    config = DINOV2_LARGE if kind == "image" else CLIP_TEXT
    path = _write_json(directory / "config.json", config)
    if kind == "image":
        tensors = _draw_dinov2(path, device)
    else:
        with torch.device("meta"):
            network = ClipText(ClipTextSizes.read(EncoderSettings.read(path)))
        _draw_weights(network.to_empty(device=device))
        tensors = network.state_dict()
        save_tokenizer(directory)
    # The metadata is for transformers, which reads these files, too.
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _draw_dinov2(config: Path, device: str) -> dict[str, Tensor]:
    """Draw the weights of a DINOv2, with all the tensors that a published file has."""
    sizes = Dinov2Sizes.read(EncoderSettings.read(config))
    with torch.device("meta"):
        network = Dinov2(sizes)
    _draw_weights(network.to_empty(device=device))
    return {**network.state_dict(), MASK_TOKEN: torch.zeros(1, sizes.channels)}


def _write_json(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_scorer(directory: Path) -> None:
    """Write DINOv2-S/14 with a score head, laid out as the validator's scorer is published."""
    torch.manual_seed(0)
    config = _write_json(directory / "config.json", DINOV2_SMALL)
    tensors = {f"backbone.{name}": tensor for name, tensor in _draw_dinov2(config, "cpu").items()}
    tensors |= {"score_head.weight": torch.randn(1, 384), "score_head.bias": torch.zeros(1)}
    save_file(tensors, directory / "quality_scorer.safetensors")


def write_text_alignment(directory: Path, device: str) -> None:
    """Write open_clip's convnext_large_d with a vocabulary of single bytes; the weights are drawn on `device`."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = ConvNextClip(CONVNEXT_LARGE_D)
    _draw_weights(network.to_empty(device=device))
    save_file(network.state_dict(), directory / OPEN_CLIP_WEIGHTS)
    sizes = CONVNEXT_LARGE_D
    text = {"context_length": sizes.context, "vocab_size": sizes.vocabulary}
    text |= {"width": sizes.width, "heads": sizes.heads, "layers": sizes.layers}
    settings = {"embed_dim": sizes.embedding, "vision_cfg": {"timm_pool": "", "timm_proj": "mlp"}, "text_cfg": text}
    (directory / OPEN_CLIP_CONFIG).write_text(json.dumps({"model_cfg": settings}))
    save_tokenizer(directory)


def write_image_alignment(directory: Path, device: str) -> None:
    """Write the vision tower of CLIP ViT-L/14 for 336 pixels, with LLM2CLIP's projection, drawn on `device`."""
    torch.manual_seed(0)
    path = _write_json(directory / "config.json", {"vision_config": CLIP_VISION})
    sizes = ClipVisionSizes.read(EncoderSettings.read(path).section("vision_config"))
    with torch.device("meta"):
        network = ClipVision(sizes, embedding=1280, has_bias=False)
    _draw_weights(network.to_empty(device=device))
    save_file(network.state_dict(), directory / "model.safetensors")


def write_alexnet(directory: Path) -> Path:
    """Write AlexNet's convolutions, and return the file."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, parameter in create_alexnet().named_parameters():
        fan_in = parameter[0].numel()
        is_bias = parameter.ndim == 1
        values = torch.zeros(parameter.shape) if is_bias else torch.randn(parameter.shape) * (2 / fan_in) ** 0.5
        tensors[f"features.{name}"] = values
    save_file(tensors, directory / "alexnet.safetensors")
    return directory / "alexnet.safetensors"
