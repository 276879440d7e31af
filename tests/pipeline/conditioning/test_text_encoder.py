import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.errors import CheckpointError

CPU = torch.device("cpu")
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def directory(tiny_text_checkpoint: Path) -> Path:
    return tiny_text_checkpoint / "text_encoder"


@pytest.fixture(scope="module")
def encoder(directory: Path) -> TextEncoder:
    return TextEncoder(directory, CPU)


@pytest.fixture(scope="module")
def text_model(directory: Path) -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def full_clip(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory as openai/clip-vit-large-patch14 publishes it, text and image model in one file, and the model."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    text = CLIPTextConfig.from_pretrained(directory).to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = CLIPConfig(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    model = CLIPModel(config).eval()
    full = tmp_path_factory.mktemp("clip")
    model.save_pretrained(full)
    tensors = load_file(full / "model.safetensors")
    # Files written by older versions hold these, too.
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, full / "model.safetensors", metadata={"format": "pt"})
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(directory / name, full)
    return full, model


def token_ids(directory: Path, text: str) -> torch.Tensor:
    """What the tokenizer must make of lower-case letters and single spaces, by hand."""
    vocabulary = json.loads((directory / "vocab.json").read_text())
    tokens = [token for word in text.split() for token in [*word[:-1], f"{word[-1]}</w>"]][:75]
    padded = [START, *tokens, END, *[END] * (75 - len(tokens))]
    return torch.tensor([[vocabulary[token] for token in padded]])


@pytest.mark.parametrize("text", ["a red chair", "", "x" * 200, "word " * 60])
def test_tokens_are_the_states_after_the_final_norm_padding_included(
    encoder: TextEncoder, directory: Path, text_model: Any, text: str
) -> None:
    ids = token_ids(directory, text)
    assert ids.shape == (1, 77)
    with torch.no_grad():
        expected = text_model(ids).last_hidden_state
    tokens = encoder(text)
    assert tokens.shape == (1, 77, encoder.channels)
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens, expected)


def test_case_and_white_space_do_not_count(encoder: TextEncoder) -> None:
    assert torch.equal(encoder("  A   Red\nCHAIR "), encoder("a red chair"))


def test_padding_is_not_masked(encoder: TextEncoder, directory: Path, text_model: Any) -> None:
    ids = token_ids(directory, "a chair")
    # The first END is a token of the sentence, what follows is padding.
    mask = (torch.arange(77) <= int((ids[0] == ids[0, -1]).nonzero()[0]))[None]
    with torch.no_grad():
        masked = text_model(ids, attention_mask=mask).last_hidden_state
    assert not torch.allclose(encoder("a chair")[:, -1], masked[:, -1], atol=1e-3)


def test_the_null_condition_is_that_of_the_empty_sentence(encoder: TextEncoder) -> None:
    assert torch.equal(encoder.null, encoder(""))
    assert not torch.allclose(encoder.null, encoder("a chair"), atol=1e-2)


def test_the_text_half_of_a_whole_clip_is_taken(full_clip: tuple[Path, Any]) -> None:
    full, model = full_clip
    encoder = TextEncoder(full, CPU)
    with torch.no_grad():
        expected = model.text_model(token_ids(full, "a red chair")).last_hidden_state
    assert torch.equal(encoder("a red chair"), expected)
    assert sum(p.numel() for p in encoder._network.parameters()) == sum(
        p.numel() for p in model.text_model.parameters()
    )


def test_a_whole_clip_without_a_tensor_of_its_text_half_is_refused(full_clip: tuple[Path, Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(full_clip[0], tmp_path / "clip"))
    without("text_model.final_layer_norm.weight")(copy)
    with pytest.raises(CheckpointError, match=r"final_layer_norm\.weight is missing, unexpected or"):
        TextEncoder(copy, CPU)


def test_nothing_is_looked_up_on_the_network(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    TextEncoder(directory, CPU)


def without(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        del tensors[name]
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return change


def configured(**values: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def shorter_vocabulary(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    name = "embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:100].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    configured(vocab_size=100)(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.layers.1.mlp.fc1.bias"), r"encoder\.layers\.1\.mlp\.fc1\.bias is missing, unexpected or of"),
        (configured(hidden_size=32), r"\S+ is missing, unexpected or of another shape"),
        (configured(num_hidden_layers=3), r"encoder\.layers\.2\.\S+ is missing, unexpected or of another shape"),
        (
            shorter_vocabulary,
            r"config\.json has 77 positions and 100 tokens, but 77 and the 514 of the tokenizer are needed",
        ),
        (configured(hidden_act="relu"), "hidden_act is 'relu', not 'quick_gelu' or 'gelu'"),
        (configured(model_type="t5"), "model_type is 't5', not 'clip_text_model' or 'clip'"),
        (configured(model_type="clip"), "lacks 'text_config'"),
        (pickled, r"pytorch_model\.bin is a pickle, .* convert its tensors to model\.safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), r"model\.safetensors is damaged"),
        (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda d: (d / "config.json").unlink(), r"config\.json is missing"),
        (lambda d: (d / "vocab.json").unlink(), r"vocab\.json is missing"),
        (lambda d: (d / "merges.txt").unlink(), r"merges\.txt is missing"),
        (lambda d: (d / "vocab.json").write_text("{"), r"vocab\.json cannot be read"),
        (lambda d: (d / "merges.txt").write_text("#version: 0.2\nq qq\n"), r"vocab\.json is no vocabulary of CLIP"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(
    directory: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(directory, tmp_path / "text_encoder"))
    change(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        TextEncoder(copy, CPU)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
