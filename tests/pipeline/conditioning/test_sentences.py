import logging
from pathlib import Path

import pytest
import torch

from pipeline.conditioning.prompt import ImagePrompt, TextPrompt, with_template
from pipeline.conditioning.sentences import is_template
from pipeline.conditioning.text_encoder import TextEncoder


@pytest.mark.parametrize("template", ["{prompt}", "{prompt}, plain white background", "a photo of {prompt}."])
def test_templates(template: str) -> None:
    assert is_template(template)


@pytest.mark.parametrize(
    "template", ["", "a chair", "{prompt} {prompt}", "{prompt} {seed}", "{prompt", "{prompt}}", "{}"]
)
def test_no_templates(template: str) -> None:
    assert not is_template(template)


def test_a_sentence_stands_in_its_place_whatever_is_in_it() -> None:
    prompt = with_template(TextPrompt("a {prompt} %s \\1 chair"), "{prompt}, alone")
    assert isinstance(prompt, TextPrompt)
    assert prompt.filled == "a {prompt} %s \\1 chair, alone"
    assert prompt.text == "a {prompt} %s \\1 chair"
    assert TextPrompt("a chair").filled == "a chair"


def test_a_picture_has_no_template() -> None:
    from PIL import Image

    picture = ImagePrompt(Image.new("RGB", (2, 2)), b"")
    assert with_template(picture, "{prompt}, alone") is picture


def test_that_sentences_are_cut_is_said_once(tiny_text_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder(tiny_text_checkpoint / "text_encoder", torch.device("cpu"))
    with caplog.at_level(logging.WARNING, "pipeline.conditioning.sentences"):
        encoder(" ".join("a" * 75))
        assert caplog.messages == []
        encoder(" ".join("a" * 76))
        encoder(" ".join("a" * 100))
    assert caplog.messages == [
        "A sentence of 78 tokens is cut: the text checkpoint's encoder reads 77, and what comes after them has no "
        "effect; this is said once, and goes for all longer ones"
    ]
