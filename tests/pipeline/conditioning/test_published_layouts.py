"""Encoders from files as their publishers wrote them, with the names and the settings of the packages of the time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.errors import CheckpointError
from tests.support.published_names import clip_text_of_transformers_4, dinov2_of_transformers_4

CPU = torch.device("cpu")
# The keys of facebook/dinov2-with-registers-*, of transformers 4.48, at a small size.
DINOV2_CONFIG: dict[str, Any] = {
    "apply_layernorm": True,
    "architectures": ["Dinov2WithRegistersModel"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 32,
    "image_size": 28,
    "initializer_range": 0.02,
    "interpolate_antialias": True,
    "interpolate_offset": 0.0,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2_with_registers",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "num_register_tokens": 4,
    "out_features": ["stage2"],
    "out_indices": [2],
    "patch_size": 14,
    "qkv_bias": True,
    "reshape_hidden_states": True,
    "stage_names": ["stem", "stage1", "stage2"],
    "torch_dtype": "float32",
    "transformers_version": "4.48.0.dev0",
}
# The keys of the text part of openai/clip-vit-large-patch14, of transformers 4.16, at a small size.
CLIP_TEXT_CONFIG: dict[str, Any] = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "architectures": None,
    "attention_dropout": 0.0,
    "bad_words_ids": None,
    "bos_token_id": 0,
    "chunk_size_feed_forward": 0,
    "decoder_start_token_id": None,
    "do_sample": False,
    "dropout": 0.0,
    "eos_token_id": 2,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "hidden_act": "quick_gelu",
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "layer_norm_eps": 1e-05,
    "max_length": 20,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_beams": 1,
    "output_attentions": False,
    "pad_token_id": 1,
    "pruned_heads": {},
    "return_dict": True,
    "task_specific_params": None,
    "temperature": 1.0,
    "tie_word_embeddings": True,
    "torch_dtype": None,
    "torchscript": False,
    "transformers_version": "4.16.0.dev0",
    "use_bfloat16": False,
}


def randomised(network: nn.Module) -> dict[str, Tensor]:
    """Tensors in the network's own names, none of which has the value that it is initialised with."""
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(t.shape, generator=generator) / 4 for name, t in network.state_dict().items()}


def write(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("swiglu", [False, True], ids=["small to large", "giant"])
def test_dinov2_with_registers(tmp_path: Path, swiglu: bool) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = {**DINOV2_CONFIG, "use_swiglu_ffn": swiglu}
    tensors = randomised(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config)))
    published = dinov2_of_transformers_4(tensors)
    assert "encoder.layer.1.attention.attention.query.weight" in published
    assert ("encoder.layer.1.mlp.weights_in.weight" in published) == swiglu
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    expected = ImageEncoder(write(tmp_path / "present", config, tensors), CPU)(picture)
    assert torch.equal(ImageEncoder(write(tmp_path / "published", config, published), CPU)(picture), expected)

    missing = "encoder.layer.1.mlp.weights_in.bias" if swiglu else "encoder.layer.1.attention.attention.key.bias"
    del published[missing]
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.\S+ is missing, unexpected"):
        ImageEncoder(write(tmp_path / "incomplete", config, published), CPU)


def clip_config(size: int) -> dict[str, Any]:
    return {
        **CLIP_TEXT_CONFIG,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": size,
        "projection_dim": 32,
    }


@pytest.mark.parametrize("whole", [True, False], ids=["with the image model", "the text model alone"])
def test_clip(tmp_path: Path, tiny_text_checkpoint: Path, whole: bool) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    tokenizer = tiny_text_checkpoint / "text_encoder"
    config = clip_config(len(json.loads((tokenizer / "vocab.json").read_text())))
    tensors = randomised(CLIPTextModel(CLIPTextConfig(**config)))
    published = clip_text_of_transformers_4(tensors, 77)
    assert "text_model.encoder.layers.1.self_attn.out_proj.bias" in published
    full = config
    if whole:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        vision = {**sizes, "image_size": 28, "patch_size": 14, "model_type": "clip_vision_model"}
        network = CLIPVisionModel(CLIPVisionConfig(**vision))
        published |= {f"vision_model.{name}": tensor for name, tensor in randomised(network).items()}
        published["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        published |= {f"{kind}_projection.weight": torch.zeros(32, 32) for kind in ("text", "visual")}
        published["logit_scale"] = torch.tensor(4.6)
        full = {
            "architectures": ["CLIPModel"],
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "model_type": "clip",
            "projection_dim": 32,
            "text_config": config,
            "text_config_dict": {"hidden_size": 32, "num_hidden_layers": 2, "projection_dim": 32},
            "vision_config": vision,
            "vision_config_dict": sizes,
            "torch_dtype": "float32",
            "transformers_version": None,
        }

    def load(name: str, config: dict[str, Any], tensors: dict[str, Tensor]) -> TextEncoder:
        directory = write(tmp_path / name, config, tensors)
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(tokenizer / file, directory)
        return TextEncoder(directory, CPU)

    expected = load("present", config, tensors)("a red chair")
    assert torch.equal(load("published", full, published)("a red chair"), expected)
    del published["text_model.encoder.layers.1.self_attn.out_proj.bias"]
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.1\.self_attn\.out_proj\.bias is missing, unexpected"):
        load("incomplete", full, published)
