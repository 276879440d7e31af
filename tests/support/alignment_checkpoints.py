"""Small networks of the two alignment metrics with weights by formula, in files laid out as the published ones."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.support.formula_weights import SCORE_DATA, formula_weights, golden_shapes

# The open_clip configuration of the golden network; its ConvNeXt has depths 2, 2, 3, 2 and 24, 48, 96, 192 channels.
TEXT_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "timm_model_name": "convnext_gold",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "mlp",
        "timm_drop": 0.0,
        "timm_drop_path": 0.1,
        "image_size": 256,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}


def write_text_alignment(directory: Path) -> Path:
    """Write the golden network, and as much of CLIP's vocabulary as the golden prompts need."""
    save_file(formula_weights(golden_shapes("text")), directory / "open_clip_model.safetensors")
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": TEXT_CONFIG, "preprocess_cfg": {}}))
    content = json.loads((SCORE_DATA / "clip_tokens.json").read_text())
    (directory / "vocab.json").write_text(json.dumps(content["vocabulary"]))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *content["merges"]]) + "\n")
    return directory


def write_image_alignment(directory: Path) -> Path:
    """Write the golden vision tower, and a tensor of the text side, which is not read."""
    shapes = {**golden_shapes("image"), "text_adapter.weight": (2, 2)}
    save_file(formula_weights(shapes), directory / "model.safetensors")
    network = json.loads((SCORE_DATA / "networks.json").read_text())["image"]
    config = {"architectures": ["LLM2CLIPModel"], "model_type": "clip", "vision_config": network["vision_config"]}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
