"""Alignment with sentences, against what the validator's own code made of the same views."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.scoring.clip_pixels import clip_pixels
from pipeline.scoring.convnext_clip import Architecture, ConvNextClip
from pipeline.scoring.text_alignment import TextAlignment
from tests.support.alignment_checkpoints import write_text_alignment
from tests.support.formula_weights import SCORE_DATA
from tests.support.score_views import OBJECTS, golden_scores, golden_views

CPU = torch.device("cpu")
CASES = [(name, index) for name in OBJECTS for index in range(3)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_alignment(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def alignment(directory: Path) -> TextAlignment:
    return TextAlignment.load(str(directory), CPU)


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    return dict(np.load(SCORE_DATA / "features.npz"))


def case(name: str, index: int) -> dict[str, Any]:
    golden: dict[str, Any] = golden_scores(name)["text"][index]
    return golden


@pytest.mark.parametrize(("name", "index"), CASES)
def test_the_golden_prompts(alignment: TextAlignment, name: str, index: int) -> None:
    golden, views = case(name, index), golden_views(name)
    prompt = alignment.encode(golden["prompt"])
    assert prompt.shape == (1, 64)
    assert float(prompt.norm()) == pytest.approx(1, abs=1e-6)
    assert alignment.cosines(views, prompt).tolist() == pytest.approx(golden["f32"]["raw"], abs=2e-6, rel=0)
    assert alignment.measure(views, prompt) == pytest.approx(golden["f32"]["alignment"], abs=1e-5, rel=0)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_golden_features(alignment: TextAlignment, features: dict[str, np.ndarray], name: str) -> None:
    with torch.inference_mode():
        ours = alignment.network.encode_image(clip_pixels(golden_views(name), 224, torch.float32))
        assert np.abs(ours.numpy() - features[f"{name}.image_features"]).max() < 1e-5
        for index in range(3):
            tokens = alignment.tokenizer(case(name, index)["prompt"])
            ours = alignment.network.encode_text(tokens)
            assert np.abs(ours.numpy() - features[f"{name}.text_features.{index}"]).max() < 1e-5


@pytest.mark.parametrize("name", OBJECTS)
def test_pictures_in_half_precision(alignment: TextAlignment, name: str) -> None:
    """As on a GPU, but with the network in float32, which the golden data have, too."""
    with torch.inference_mode():
        ours = alignment.network.encode_image(clip_pixels(golden_views(name), 224, torch.float16).float())
        ours /= ours.norm(dim=-1, keepdim=True)
    for index in range(3):
        golden = case(name, index)
        cosines = ours @ alignment.encode(golden["prompt"]).T
        assert cosines[:, 0].tolist() == pytest.approx(golden["half_in"]["raw"], abs=2e-6, rel=0)


def test_half_precision_as_on_a_gpu(directory: Path, device: torch.device) -> None:
    loaded = TextAlignment.load(str(directory), device)
    if device == CPU:
        loaded.network.store_for_autocast(CPU)
    alignment = replace(loaded, dtype=torch.float16)
    weights = dict(alignment.network.named_parameters())
    single = {name for name, weight in weights.items() if weight.dtype == torch.float32}
    assert {"transformer.resblocks.0.ln_1.weight", "visual.trunk.head.norm.bias", "positional_embedding"} < single
    matrices = {name for name, weight in weights.items() if weight.ndim > 1}
    assert single & matrices == {"positional_embedding", "token_embedding.weight"}
    # The table of tokens is not in the GPU's memory.
    assert weights["token_embedding.weight"].device == CPU
    golden = case("robocop", 0)
    prompt = alignment.encode(golden["prompt"])
    views = golden_views("robocop").to(device)
    assert prompt.dtype == torch.float16
    # Cosines have steps of 2.4e-4.
    assert alignment.cosines(views, prompt).tolist() == pytest.approx(golden["f32"]["raw"], abs=1e-3, rel=0)
    assert alignment.measure(views, prompt) == pytest.approx(golden["f32"]["alignment"], abs=4e-3, rel=0)


def test_a_negative_cosine_makes_the_alignment_zero(alignment: TextAlignment) -> None:
    views = golden_views("robocop")
    opposite = -alignment.encode("a red ball")
    assert alignment.cosines(views, opposite).max() != alignment.cosines(views, -opposite).max()
    signs = {alignment.measure(views, prompt) == 0 for prompt in (opposite, -opposite)}
    assert signs == {True, False}


def test_equal_views_are_all_kept(alignment: TextAlignment) -> None:
    white = torch.full((16, 518, 518, 3), 255, dtype=torch.uint8)
    prompt = alignment.encode("nothing")
    expected = float(alignment.cosines(white, prompt).clip(0, 1)[0]) / 0.35
    assert alignment.measure(white, prompt) == pytest.approx(expected, abs=1e-5)


def test_the_published_network_has_these_names_and_shapes() -> None:
    published = json.loads((SCORE_DATA / "convnext_large_d.json").read_text())
    shapes = {name: tuple(shape) for name, shape in published["tensors"]}
    with torch.device("meta"):
        network = ConvNextClip(Architecture.read(published["config"], shapes))
    del shapes["logit_scale"]
    assert {name: tuple(weight.shape) for name, weight in network.state_dict().items()} == shapes


def in_config(**changes: dict[str, Any]) -> Callable[[Path], None]:
    """Change sections of the model's settings."""

    def change(directory: Path) -> None:
        path = directory / "open_clip_config.json"
        content = json.loads(path.read_text())
        for section, values in changes.items():
            content["model_cfg"][section] |= values
        path.write_text(json.dumps(content))

    return change


def in_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / "open_clip_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def as_pickle(directory: Path) -> None:
    (directory / "open_clip_model.safetensors").rename(directory / "open_clip_model.bin")


TRUNK = "visual.trunk."


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "open_clip_config.json").unlink(), "has no open_clip_config.json"),
        (lambda d: (d / "open_clip_config.json").write_text("[]"), "is not a JSON object"),
        (lambda d: (d / "open_clip_config.json").write_text("{}"), "lacks 'model_cfg'"),
        (in_config(text_cfg={"heads": 5}), "is not supported: 4 stages, 5 heads of 64 channels"),
        (in_config(text_cfg={"heads": 0}), "is not supported: integer modulo by zero"),
        (in_config(text_cfg={"width": "wide"}), "is not supported: invalid literal"),
        (in_config(text_cfg={"hf_model_name": "roberta-base"}), "text_cfg.hf_model_name is 'roberta-base', only None"),
        (in_config(vision_cfg={"timm_proj": "linear"}), "vision_cfg.timm_proj is 'linear', only 'mlp' is supported"),
        (in_config(text_cfg={"context_length": 76}), "positional_embedding is missing, unexpected or of another shape"),
        (lambda d: (d / "open_clip_model.safetensors").unlink(), "open_clip_model.safetensors is missing"),
        (as_pickle, "open_clip_model.bin is a pickle"),
        (lambda d: (d / "open_clip_model.safetensors").write_bytes(b"junk"), "is damaged or not a safetensors file"),
        (in_tensors(lambda t: t.pop(f"{TRUNK}head.norm.weight")), "visual.trunk.head.norm.weight is missing"),
        (in_tensors(lambda t: t.pop("visual.head.mlp.fc2.weight")), "lacks 'visual.head.mlp.fc2.weight'"),
        (in_tensors(lambda t: t.update(more=torch.zeros(1))), "more is missing, unexpected or of another shape"),
        (
            in_tensors(lambda t: t.update({f"{TRUNK}stem.0.bias": torch.zeros(1)})),
            "visual.trunk.stem.0.bias is missing",
        ),
        (lambda d: (d / "vocab.json").unlink(), "vocab.json is missing"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_text_alignment(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        TextAlignment.load(str(tmp_path), CPU)
    assert message in str(caught.value)


def test_the_command_that_downloads_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="run `sn17-miner weights download laion/CLIP-convnext_large_d"):
        TextAlignment.load("laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg", CPU)
