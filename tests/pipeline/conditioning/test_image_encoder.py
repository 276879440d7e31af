import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.errors import CheckpointError
from pipeline.weights.locate import EMBEDDED, locate

DIRECTORY = locate(EMBEDDED, "pipeline.json") / "image_encoder"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(DIRECTORY, CPU)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIRECTORY, tmp_path / "image_encoder"))


def noise(size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_tokens_are_class_registers_and_patches(encoder: ImageEncoder) -> None:
    config = json.loads((DIRECTORY / "config.json").read_text())
    patches = (config["image_size"] // config["patch_size"]) ** 2
    tokens = encoder(noise(518))
    assert tokens.shape == (1, 1 + config["num_register_tokens"] + patches, config["hidden_size"])
    assert tokens.dtype == torch.float32
    assert (encoder.picture_size, encoder.channels) == (config["image_size"], config["hidden_size"])


def test_tokens_are_the_state_before_the_final_norm_normalised_without_affine(encoder: ImageEncoder) -> None:
    from transformers import Dinov2WithRegistersModel

    picture = noise(encoder.picture_size)
    plain = Dinov2WithRegistersModel.from_pretrained(DIRECTORY).float().eval()
    # A norm that is not the identity: taking the state after it would show.
    generator = torch.Generator().manual_seed(0)
    plain.layernorm.weight.data = torch.rand(encoder.channels, generator=generator)
    pixels = torch.tensor(np.array(picture), dtype=torch.float32).permute(2, 0, 1) / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        state = plain(((pixels - mean) / std)[None], output_hidden_states=True).hidden_states[-1]
    centred = state - state.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(encoder(picture), expected, atol=1e-5)


def test_pictures_of_another_size_are_resized(encoder: ImageEncoder) -> None:
    picture = noise(200)
    side = encoder.picture_size
    resized = picture.resize((side, side), Image.Resampling.LANCZOS)
    assert torch.equal(encoder(picture), encoder(resized))


def test_another_picture_has_other_tokens_and_the_same_has_the_same(encoder: ImageEncoder) -> None:
    first = encoder(noise(112))
    assert torch.equal(first, encoder(noise(112)))
    assert not torch.allclose(first, encoder(noise(112, seed=1)), atol=1e-2)


def without(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        del tensors[name]
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return change


def with_another(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        save_file({**tensors, name: torch.zeros(2)}, directory / "model.safetensors", metadata={"format": "pt"})

    return change


def cut(size: int) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return change


def configured(**values: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("embeddings.register_tokens"), "embeddings.register_tokens is missing, unexpected or of another"),
        (configured(num_hidden_layers=5), r"encoder\.layer\.4\.\S+ is missing, unexpected or of another shape"),
        (with_another("head.weight"), "head.weight is missing, unexpected or of another shape"),
        (configured(image_size=140), "embeddings.position_embeddings is missing, unexpected or of another shape"),
        (configured(hidden_size="many"), "is not supported: hidden_size is 'many', not a whole number from 1 to 65536"),
        (configured(hidden_size=True), "is not supported: hidden_size is True, not a whole number"),
        (configured(hidden_size=None), "lacks 'hidden_size'"),
        (configured(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, not a whole number from 1 to 1024"),
        (configured(num_attention_heads=3), r"128 channels cannot be divided among 3 heads \(num_attention_heads\)"),
        (configured(image_size=[112, 112]), r"image_size is \[112, 112\], not a whole number"),
        (configured(patch_size=113), r"patches of 113 pixels \(patch_size\) in pictures of 112 \(image_size\)"),
        (configured(hidden_act="relu"), "hidden_act is 'relu', not 'gelu'"),
        (configured(use_swiglu_ffn=1), "use_swiglu_ffn is 1, not False or True"),
        (configured(layer_norm_eps=-1), "layer_norm_eps is -1, not a positive number"),
        (configured(layer_norm_eps=float("nan")), "layer_norm_eps is nan, not a positive number"),
        (configured(model_type="vit"), "model_type is 'vit', not 'dinov2' or 'dinov2_with_registers'"),
        (cut(-100), "model.safetensors is damaged"),
        (cut(0), "model.safetensors is damaged"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "config.json").unlink(), "config.json is missing"),
        (shutil.rmtree, "config.json is missing"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(
    copy: Path, change: Callable[[Path], None], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        ImageEncoder(copy, CPU)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    # The message is all there is to see.
    assert capfd.readouterr() == ("", "")
