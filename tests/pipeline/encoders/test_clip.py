"""CLIP's two networks against the implementation in transformers, from files with the names of either release."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from pipeline.encoders.clip import ClipText, ClipTextSizes, ClipVisionSizes, build_clip_text, build_clip_vision
from pipeline.encoders.settings import EncoderSettings
from pipeline.errors import CheckpointError
from pipeline.weights.locate import EMBEDDED_TEXT, locate
from pipeline.weights.tensors import read_tensors
from tests.support.published_names import clip_text_of_transformers_4

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
TEXT_SIZES = {**SIZES, "vocab_size": 50, "max_position_embeddings": 11, "layer_norm_eps": 1e-4}
VISION_SIZES = {**SIZES, "image_size": 28, "patch_size": 7, "layer_norm_eps": 1e-4}
ACTIVATIONS = ("quick_gelu", "gelu")


def randomised(network: Any) -> Any:
    """Return the network with weights none of which has the value that it is initialised with."""
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return network.eval()


def load_text(directory: Path) -> ClipText:
    weights = directory / "model.safetensors"
    return build_clip_text(
        ClipTextSizes.read(EncoderSettings.read(directory / "config.json")), read_tensors(weights), weights
    )


def check_text(network: ClipText, expected: Any) -> None:
    shape = 2, expected.config.max_position_embeddings
    tokens = torch.randint(expected.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for ids in (tokens, tokens[:, :5]):
            assert_close(network(ids), expected(ids).last_hidden_state, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_text_model_is_that_of_transformers(tmp_path: Path, activation: str) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    expected = randomised(CLIPTextModel(CLIPTextConfig(**TEXT_SIZES, hidden_act=activation)))
    expected.save_pretrained(tmp_path)
    saved, in_memory = load_file(tmp_path / "model.safetensors"), dict(expected.state_dict())
    for tensors in (saved, in_memory, clip_text_of_transformers_4(in_memory, 11)):
        save_file(tensors, tmp_path / "model.safetensors")
        check_text(load_text(tmp_path), expected)


def test_the_embedded_text_encoder_is_that_of_transformers() -> None:
    from transformers import CLIPTextModel

    directory = locate(EMBEDDED_TEXT, "pipeline.json") / "text_encoder"
    check_text(load_text(directory), CLIPTextModel.from_pretrained(directory).float().eval())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_vision_tower_is_that_of_transformers(activation: str, has_bias: bool) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    settings = {**VISION_SIZES, "hidden_act": activation}
    expected = CLIPVisionModelWithProjection(CLIPVisionConfig(**settings, projection_dim=16))
    expected.visual_projection = nn.Linear(24, 16, bias=has_bias)
    expected = randomised(expected)
    path = Path("model.safetensors")
    sizes = ClipVisionSizes.read(EncoderSettings(Path("config.json"), settings))
    network = build_clip_vision(sizes, expected.state_dict(), path)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert_close(network(pixels), expected(pixels).image_embeds, atol=1e-6, rtol=1e-6)
    for wrong in ({}, {"visual_projection.weight": torch.zeros(())}, {"visual_projection.weight": torch.zeros(0, 24)}):
        with pytest.raises(CheckpointError, match=r"model\.safetensors lacks 'visual_projection\.weight'"):
            build_clip_vision(sizes, wrong, path)


def test_what_transformers_leaves_out_of_a_configuration_has_its_defaults() -> None:
    """A part of CLIP that has the sizes of the smallest published one is written without them."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    empty = EncoderSettings(Path("config.json"), {})
    with torch.device("meta"):
        text: nn.Module = CLIPTextModel(CLIPTextConfig())
        vision: nn.Module = CLIPVisionModelWithProjection(CLIPVisionConfig())
        networks = (
            (text, ClipText(ClipTextSizes.read(empty))),
            (vision, build_clip_vision(ClipVisionSizes.read(empty), vision.state_dict(), Path("model.safetensors"))),
        )
    for expected, network in networks:
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in expected.state_dict().items()}
