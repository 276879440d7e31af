"""Random weights of published size for encoders and for the parts of the score."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.encoders.clip import ClipText, ClipTextSizes
from pipeline.encoders.dinov2 import MASK_TOKEN, Dinov2, Dinov2Sizes
from pipeline.encoders.settings import EncoderSettings
from pipeline.scoring.convnext_clip import Architecture
from pipeline.scoring.lpips import Lpips
from pipeline.weights import random_init
from pipeline.weights.random_init import (
    CLIP_TEXT,
    CLIP_VISION,
    CONVNEXT_LARGE_D,
    DINOV2_LARGE,
    DINOV2_SMALL,
    write_alexnet,
)
from tests.pipeline.weights.conftest import CPU
from tests.support.formula_weights import SCORE_DATA
from tests.support.published_names import dinov2_of_transformers_4

CONFIG = Path("config.json")


def test_the_text_network_has_the_published_size() -> None:
    published = json.loads((SCORE_DATA / "convnext_large_d.json").read_text())
    assert Architecture.read(published["config"], dict(published["tensors"])) == CONVNEXT_LARGE_D


def test_the_vision_tower_has_the_published_size() -> None:
    with torch.device("meta"):
        network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**CLIP_VISION))
    assert sum(weight.numel() for weight in network.parameters()) == 303_507_456 + 1_310_720


def test_the_encoders_have_the_published_sizes() -> None:
    """The tensors of a file, against those that networks of transformers with the same settings have."""
    with torch.device("meta"):
        large = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**DINOV2_LARGE))
        small = transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2_SMALL))
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_TEXT))
        found = [Dinov2(Dinov2Sizes.read(EncoderSettings(CONFIG, sizes))) for sizes in (DINOV2_LARGE, DINOV2_SMALL)]
        found_text = ClipText(ClipTextSizes.read(EncoderSettings(CONFIG, CLIP_TEXT)))
    for network, expected in zip(found, (large, small), strict=True):
        shapes = shapes_of(dinov2_of_transformers_4(expected.state_dict()))
        del shapes[MASK_TOKEN]
        assert shapes_of(network.state_dict()) == shapes
    assert shapes_of(found_text.state_dict()) == shapes_of(text.state_dict())
    # What the publishers say of DINOv2-L/14, DINOv2-S/14 and the text half of CLIP ViT-L/14.
    assert [round(large.num_parameters() / 1e6), round(small.num_parameters() / 1e6)] == [304, 22]
    assert text.num_parameters() == 123_060_480


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_transformers_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(random_init, "DINOV2_LARGE", {**DINOV2_LARGE, **small})
    monkeypatch.setattr(random_init, "CLIP_TEXT", {**CLIP_TEXT, **small, "intermediate_size": 32})
    for kind, model in (("image", transformers.Dinov2WithRegistersModel), ("text", transformers.CLIPTextModel)):
        random_init.write_encoder(kind, tmp_path / kind, "cpu")
        _, report = model.from_pretrained(tmp_path / kind, output_loading_info=True)
        assert not any(report.values()), report
    ImageEncoder(tmp_path / "image", CPU)
    TextEncoder(tmp_path / "text", CPU)


def test_alexnet_is_loaded(tmp_path: Path) -> None:
    features = Lpips.load(write_alexnet(tmp_path), CPU).encode(torch.rand(1, 3, 64, 64))
    assert all(bool(feature.isfinite().all()) for feature in features)
