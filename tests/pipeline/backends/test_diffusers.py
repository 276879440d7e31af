"""Text-to-image with diffusers itself."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import (
    CheckpointError,
    TextToImageParams,
    choose_compute,
)
from pipeline.backends.text_to_image import TextToImage
from tests.support.published_names import autoencoder_of_diffusers_0_16, clip_text_of_transformers_4

CPU = choose_compute("cpu")
needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")


# A scheduler's own, on numpy 2.
ignores_copy_keyword = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def pipe(draw: TextToImage) -> Any:
    return draw.pipe


@needs_diffusers
@ignores_copy_keyword
def test_with_diffusers_itself(tmp_path: Path) -> None:
    """A model of the smallest size that diffusers takes, saved and loaded again."""
    import diffusers

    from tests.support.tiny_diffusers import write_model

    write_model(tmp_path)
    draw = TextToImage.load(str(tmp_path), CPU)
    assert isinstance(pipe(draw), diffusers.StableDiffusionPipeline)
    pictures = [draw("a red chair", seed, TextToImageParams(steps=2)) for seed in (1, 1, 2)]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (64, 64))}
    assert pictures[0].tobytes() == pictures[1].tobytes() != pictures[2].tobytes()
    weights = next((tmp_path / "unet").glob("*.safetensors"))
    pickled = weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        CheckpointError, match=r"no unet/diffusion_pytorch_model\.safetensors; pickled weights are not used"
    ):
        TextToImage.load(str(tmp_path), CPU)
    pickled.rename(weights)
    (tmp_path / "unet" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="diffusers cannot load"):
        TextToImage.load(str(tmp_path), CPU)


@needs_diffusers
@ignores_copy_keyword
def test_a_model_with_the_names_of_its_publication(tmp_path: Path) -> None:
    """Stable Diffusion as it was published in 2022, by diffusers and transformers of the time."""
    from tests.support.tiny_diffusers import write_model

    write_model(tmp_path)
    params = TextToImageParams(steps=2)
    expected = TextToImage.load(str(tmp_path), CPU)("a red chair", 1, params).tobytes()
    rewrite(tmp_path / "vae", autoencoder_of_diffusers_0_16)
    rewrite(tmp_path / "text_encoder", lambda tensors: clip_text_of_transformers_4(tensors, 77))
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(weights_of(tmp_path / "vae"))
    assert TextToImage.load(str(tmp_path), CPU)("a red chair", 1, params).tobytes() == expected


@needs_diffusers
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
        ("unet", "mid_block.resnets.0.conv1.weight"),
        ("vae", "decoder.conv_in.bias"),
    ],
)
def test_a_missing_tensor_is_named_instead_of_drawn_at_random(tmp_path: Path, folder: str, name: str) -> None:
    from tests.support.tiny_diffusers import write_model

    write_model(tmp_path)
    rewrite(tmp_path / folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"/{folder} do not fit config\.json: {re.escape(name)} is missing \(1 "):
        TextToImage.load(str(tmp_path), CPU)


def weights_of(directory: Path) -> Path:
    (file,) = directory.glob("*.safetensors")
    return file


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = weights_of(directory)
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
