"""Random weights of published size for the alignment and similarity parts of the score."""

import json
from pathlib import Path

import torch
import transformers

from pipeline.scoring.convnext_clip import Architecture
from pipeline.scoring.lpips import Lpips
from pipeline.weights.random_init import CLIP_VISION, CONVNEXT_LARGE_D, write_alexnet
from tests.pipeline.weights.conftest import CPU
from tests.support.formula_weights import SCORE_DATA


def test_the_text_network_has_the_published_size() -> None:
    published = json.loads((SCORE_DATA / "convnext_large_d.json").read_text())
    assert Architecture.read(published["config"], dict(published["tensors"])) == CONVNEXT_LARGE_D


def test_the_vision_tower_has_the_published_size() -> None:
    with torch.device("meta"):
        network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**CLIP_VISION))
    assert sum(weight.numel() for weight in network.parameters()) == 303_507_456 + 1_310_720


def test_alexnet_is_loaded(tmp_path: Path) -> None:
    features = Lpips.load(write_alexnet(tmp_path), CPU).encode(torch.rand(1, 3, 64, 64))
    assert all(bool(feature.isfinite().all()) for feature in features)
