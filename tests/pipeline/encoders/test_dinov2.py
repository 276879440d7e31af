"""DINOv2 against the implementation in transformers, from files with the names of either release."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.encoders.dinov2 import Dinov2, Dinov2Sizes, build_dinov2
from pipeline.encoders.settings import EncoderSettings
from pipeline.errors import CheckpointError
from pipeline.weights.locate import EMBEDDED, locate
from pipeline.weights.tensors import read_tensors
from tests.support.published_names import dinov2_of_transformers_4

SIZES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 2, "image_size": 28,
    "patch_size": 7, "layer_norm_eps": 1e-5,
}  # fmt: skip


def reference(registers: int, **changes: Any) -> nn.Module:
    """Return transformers' network, none of whose weights has the value that it is initialised with."""
    import transformers

    if registers:
        config = transformers.Dinov2WithRegistersConfig(**SIZES, **changes, num_register_tokens=registers)
        network: nn.Module = transformers.Dinov2WithRegistersModel(config)
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, **changes))
    generator = torch.Generator().manual_seed(registers)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return network.eval()


def load(directory: Path) -> Dinov2:
    weights = directory / "model.safetensors"
    sizes = Dinov2Sizes.read(EncoderSettings.read(directory / "config.json"))
    return build_dinov2(sizes, read_tensors(weights), weights)


def check(network: Dinov2, expected: Any) -> None:
    size = expected.config.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        states, output = network(pixels), expected(pixels, output_hidden_states=True)
        assert_close(states, output.hidden_states[-1], atol=1e-6, rtol=1e-6)
        assert_close(network.layernorm(states), output.last_hidden_state, atol=1e-6, rtol=1e-6)
    assert not states.requires_grad


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}, {"use_swiglu_ffn": True}], ids=str)
def test_every_variant_is_that_of_transformers(tmp_path: Path, registers: int, changes: dict[str, Any]) -> None:
    expected: Any = reference(registers, **changes)
    expected.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    in_memory = dict(expected.state_dict())
    assert in_memory.keys() != saved.keys()
    for tensors in (saved, in_memory, dinov2_of_transformers_4(in_memory)):
        save_file(tensors, tmp_path / "model.safetensors")
        check(load(tmp_path), expected)


def test_the_embedded_encoder_is_that_of_transformers() -> None:
    from transformers import Dinov2WithRegistersModel

    directory = locate(EMBEDDED, "pipeline.json") / "image_encoder"
    check(load(directory), Dinov2WithRegistersModel.from_pretrained(directory).float().eval())


def test_a_file_without_the_token_of_masked_patches_is_read(tmp_path: Path) -> None:
    """Only training has a use for it."""
    expected: Any = reference(0, use_mask_token=False)
    expected.save_pretrained(tmp_path)
    assert "embeddings.mask_token" not in load_file(tmp_path / "model.safetensors")
    check(load(tmp_path), expected)


@pytest.mark.parametrize("name", ["gate_proj", "up_proj"])
@pytest.mark.parametrize("other", [None, torch.zeros(32, 23), torch.tensor(1.0)], ids=["no", "narrow", "scalar"])
def test_a_gate_needs_both_halves(tmp_path: Path, name: str, other: Tensor | None) -> None:
    expected: Any = reference(4, use_swiglu_ffn=True)
    expected.save_pretrained(tmp_path)
    tensors: dict[str, Tensor] = dict(expected.state_dict())
    del tensors[f"encoder.layer.2.mlp.{name}.weight"]
    if other is not None:
        tensors[f"encoder.layer.2.mlp.{name}.weight"] = other
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.2\.mlp\.weights_in\.weight is missing"):
        load(tmp_path)
