"""Alignment with pictures, against what the validator's own code made of the same views."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.scoring.clip_pixels import clip_pixels
from pipeline.scoring.image_alignment import ImageAlignment
from tests.support.alignment_checkpoints import write_image_alignment
from tests.support.formula_weights import SCORE_DATA
from tests.support.score_views import OBJECTS, golden_scores, golden_views

CPU = torch.device("cpu")
CASES = [(name, index) for name in OBJECTS for index in range(2)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_alignment(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def alignment(directory: Path) -> ImageAlignment:
    return ImageAlignment.load(str(directory), CPU)


def case(name: str, index: int) -> tuple[dict[str, Any], Image.Image]:
    """Return a golden case and its prompt: view 1 of the object, or a part of the hamburger that is not square."""
    golden: dict[str, Any] = golden_scores(name)["image"][index]
    wide = golden_views("hamburger")[4, 130:430, 40:500]
    picture = golden_views(name)[1] if golden["prompt_image"] == "view1" else wide
    assert list(picture.shape) == golden["shape"]
    return golden, Image.fromarray(picture.numpy())


@pytest.mark.parametrize(("name", "index"), CASES)
def test_the_golden_prompts(alignment: ImageAlignment, name: str, index: int) -> None:
    (golden, picture), views = case(name, index), golden_views(name)
    prompt = alignment.encode(picture)
    assert prompt.shape == (1, 40)
    assert float(prompt.norm()) == pytest.approx(1, abs=1e-6)
    assert alignment.cosines(views, prompt).tolist() == pytest.approx(golden["f32"]["raw"], abs=2e-6, rel=0)
    assert alignment.measure(views, prompt) == pytest.approx(golden["f32"]["score"], abs=2e-6, rel=0)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_golden_features(alignment: ImageAlignment, name: str) -> None:
    golden = np.load(SCORE_DATA / "features.npz")[f"{name}.clip_image_features"]
    with torch.inference_mode():
        assert np.abs(alignment.features(golden_views(name)).numpy() - golden).max() < 1e-5


@pytest.mark.parametrize("name", OBJECTS)
def test_pictures_in_half_precision(alignment: ImageAlignment, name: str) -> None:
    """As on a GPU, but with the network in float32, which the golden data have, too."""

    def embed(pictures: Tensor) -> Tensor:
        embeddings: Tensor = alignment.network(clip_pixels(pictures, 336, torch.float16).float())
        return embeddings / embeddings.norm(dim=-1, keepdim=True)

    with torch.inference_mode():
        views = embed(golden_views(name))
        for index in range(2):
            golden, picture = case(name, index)
            cosines = embed(torch.from_numpy(np.array(picture))[None]) @ views.T
            assert cosines[0].tolist() == pytest.approx(golden["half_in"]["raw"], abs=2e-6, rel=0)


def test_half_precision_as_on_a_gpu(directory: Path, device: torch.device) -> None:
    loaded = ImageAlignment.load(str(directory), device)
    alignment = replace(loaded, network=loaded.network.half(), dtype=torch.float16)
    golden, picture = case("hamburger", 1)
    prompt = alignment.encode(picture)
    views = golden_views("hamburger").to(device)
    assert prompt.dtype == torch.float16
    assert alignment.cosines(views, prompt).tolist() == pytest.approx(golden["f32"]["raw"], abs=4e-3, rel=0)
    assert alignment.measure(views, prompt) == pytest.approx(golden["f32"]["score"], abs=4e-3, rel=0)


def test_a_negative_cosine_makes_the_alignment_nan(alignment: ImageAlignment) -> None:
    prompt = alignment.encode(case("robocop", 0)[1])
    assert math.isnan(alignment.measure(golden_views("robocop"), -prompt))


def test_bands_of_prompts(alignment: ImageAlignment) -> None:
    generator = np.random.default_rng(3)
    colours, alpha = (generator.integers(0, 256, (20, 30, bands), dtype=np.uint8) for bands in (3, 1))
    cut_out = np.concatenate([colours, alpha], axis=2)
    weight = alpha / 255
    on_white = Image.fromarray(np.round(colours * weight + 255 * (1 - weight)).astype(np.uint8))
    # Composed in integers, which may differ by one from the exact value.
    assert float(alignment.encode(Image.fromarray(cut_out)) @ alignment.encode(on_white).T) > 1 - 1e-5
    assert float(alignment.encode(Image.fromarray(cut_out)) @ alignment.encode(Image.fromarray(colours)).T) < 1 - 1e-5
    grey = Image.fromarray(cut_out[:, :, 2:], "LA")
    assert alignment.encode(grey).equal(alignment.encode(Image.fromarray(cut_out[:, :, 2])))


def in_config(**changes: object) -> Callable[[Path], None]:
    """Change the settings of the vision tower."""

    def change(directory: Path) -> None:
        path = directory / "config.json"
        content = json.loads(path.read_text())
        content["vision_config"] |= changes
        path.write_text(json.dumps(content))

    return change


def in_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def test_a_bias_of_the_projection_is_taken(alignment: ImageAlignment, tmp_path: Path) -> None:
    bias = torch.arange(40.0)
    in_tensors(lambda tensors: tensors.update({"visual_projection.bias": bias}))(write_image_alignment(tmp_path))
    views = golden_views("robocop")[:1]
    with torch.inference_mode():
        difference = ImageAlignment.load(str(tmp_path), CPU).features(views) - alignment.features(views)
    assert torch.allclose(difference[0], bias, atol=1e-5)


def test_settings_are_those_of_its_file(alignment: ImageAlignment, tmp_path: Path) -> None:
    in_config(hidden_act="gelu", dtype="float32", unknown=[1])(write_image_alignment(tmp_path))
    views = golden_views("robocop")[:1]
    with torch.inference_mode():
        difference = ImageAlignment.load(str(tmp_path), CPU).features(views) - alignment.features(views)
    assert difference.abs().max() > 1e-3


def test_positions_of_old_files_are_ignored(alignment: ImageAlignment, tmp_path: Path) -> None:
    positions = {"vision_model.embeddings.position_ids": torch.arange(577)[None]}
    in_tensors(lambda tensors: tensors.update(positions))(write_image_alignment(tmp_path))
    prompt = alignment.encode(case("robocop", 0)[1])
    views = golden_views("robocop")[:1]
    assert ImageAlignment.load(str(tmp_path), CPU).cosines(views, prompt).equal(alignment.cosines(views, prompt))


def as_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "has no config.json"),
        (lambda d: (d / "config.json").write_text("{}"), "lacks 'vision_config'"),
        (lambda d: (d / "config.json").write_text('{"vision_config": 3}'), "is not supported"),
        (in_config(hidden_act="none of them"), "is not supported: hidden_act is 'none of them', not"),
        (in_config(hidden_size="many"), "is not supported"),
        (
            in_config(patch_size=13),
            "vision_model.embeddings.patch_embedding.weight is missing, unexpected or of another",
        ),
        (in_config(num_hidden_layers=3), "vision_model.encoder.layers.2.layer_norm1.weight is missing"),
        (in_config(num_hidden_layers=1), "vision_model.encoder.layers.1.layer_norm1.bias is missing, unexpected"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (as_pickle, "model.bin is a pickle"),
        (lambda d: (d / "model.safetensors").write_bytes(b"junk"), "is damaged or not a safetensors file"),
        (in_tensors(lambda t: t.pop("visual_projection.weight")), "lacks 'visual_projection.weight'"),
        (
            in_tensors(lambda t: t.pop("vision_model.post_layernorm.bias")),
            "vision_model.post_layernorm.bias is missing",
        ),
        (
            in_tensors(lambda t: t.update({"vision_model.adapter": torch.zeros(1)})),
            "vision_model.adapter is missing, un",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_image_alignment(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        ImageAlignment.load(str(tmp_path), CPU)
    assert message in str(caught.value)
