"""Prompts and results as they travel: sentences as they are, files in base64."""

import base64
import hashlib
from collections.abc import Callable

import pytest

from miner.subnet.encoding import decode_prompt, encode_result, encoded_size
from pipeline import MAX_IMAGE_BYTES, ImagePrompt, PromptError, TextPrompt
from tests.support.generated import make_picture, png

FILE = png(make_picture())
DIGEST = hashlib.sha256(FILE).hexdigest()[:12]


def test_a_sentence_travels_as_it_is() -> None:
    assert decode_prompt("text", "  a red chair\n") == TextPrompt("a red chair")
    # Also if it looks like a file.
    assert decode_prompt("text", "iVBORw0KGgo=") == TextPrompt("iVBORw0KGgo=")


def test_an_image_travels_as_its_file_in_base64() -> None:
    prompt = decode_prompt("image", base64.b64encode(FILE).decode())
    assert isinstance(prompt, ImagePrompt)
    assert (prompt.image.size, prompt.image.mode) == ((64, 64), "RGBA")
    assert prompt.digest == DIGEST


@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
@pytest.mark.parametrize("form", ["{}", "  {}\n", "data:,{}", "data:image/png;base64,{}", "data:image/png;base64,\n{}"])
def test_data_urls_white_space_and_line_breaks_are_accepted(form: str, encode: Callable[[bytes], bytes]) -> None:
    text = form.format(encode(FILE).decode())
    for variant in (text, text.replace("\n", "\r\n")):
        assert decode_prompt("image", variant).digest == DIGEST


@pytest.mark.parametrize(
    ("task_type", "prompt", "message"),
    [
        ("text", "", "the prompt is empty"),
        ("text", " \n", "the prompt is empty"),
        ("text", "x" * 1025, "1025 characters"),
        ("image", "", "the prompt is empty"),
        ("image", " \n", "the prompt is empty"),
        ("image", "data:image/png;base64,", "the prompt is empty"),
        ("image", "data:,\n", "the prompt is empty"),
        *(
            ("image", text, "the image is not valid base64")
            for text in ("A", "AAA", "AA=A", "a cat!", "AA-_", "bälle", "\0\0\0\0", "猫猫猫猫", "data:image/png;base64")
        ),
        ("image", base64.b64encode(b"text").decode(), "not an image"),
        ("image", base64.b64encode(FILE[:60]).decode(), "cannot be decoded|not an image"),
    ],
)
def test_unusable_prompts(task_type: str, prompt: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        decode_prompt(task_type, prompt)  # type: ignore[arg-type]


def test_a_file_of_the_largest_size_is_accepted() -> None:
    padded = FILE + bytes(MAX_IMAGE_BYTES - len(FILE))
    assert decode_prompt("image", base64.b64encode(padded).decode()).image.size == (64, 64)


def test_a_larger_file_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(PromptError, match=f"more than {MAX_IMAGE_BYTES} bytes"):
        decode_prompt("image", "A" * (MAX_IMAGE_BYTES // 3 * 4 + 8))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 1000])
def test_results_travel_in_strict_base64_and_an_empty_one_stays_empty(data: bytes) -> None:
    text = encode_result(data)
    assert base64.b64decode(text, validate=True) == data
    assert bool(text) == bool(data)
    assert len(text) == encoded_size(data)
