"""Token ids of sentences, against those of transformers' CLIPTokenizer."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.conditioning.sentences import CLIP_TOKENS
from pipeline.conditioning.text_tokenizer import TextTokenizer
from pipeline.errors import CheckpointError
from pipeline.weights.checkpoint_writer import END, START, save_tokenizer
from pipeline.weights.locate import EMBEDDED_TEXT, locate
from tests.support.alignment_checkpoints import write_text_alignment

WORDS = [
    *("A", "red", "CHAIR", "it's", "we'LL", "'S", "don't", "3", "1234", "--", "...", "&amp;", "<b>"),
    *("naïve", "cafe\u0301", "Ünïcödé", "İstanbul", "ß", "ẞ", "ﬁ", "ǅ", "½", "²", "٣", "椅子", "стул", "의자"),
    *("🪑", "👩\u200d🚀", "<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|endoftext", "<start_of_text>"),
]
SPACES = (" ", "", "  ", "\n", "\t ", "\u00a0", "\u3000", "\u200b", "\u2028", "\x85", "\x00", "\ufeff")
RANGES = ((0, 0x7F), (0, 0x2FF), (0x300, 0xD7FF), (0xE000, 0x1FFFF))


def sentences(count: int) -> Iterator[str]:
    """Yield sentences of words and of random characters, many longer than 77 tokens."""
    draw = random.Random(0)
    yield from ("", " ", "a", *WORDS, *SPACES)
    for _ in range(count):
        yield "".join(draw.choice(WORDS) + draw.choice(SPACES) for _ in range(draw.randint(0, 40)))
        yield "".join(chr(draw.randint(*draw.choice(RANGES))) for _ in range(draw.randint(0, 60)))
        yield "".join(draw.choice("abcdef '-!?.,019ABC<|>") for _ in range(draw.randint(0, 300)))


@pytest.fixture(params=["embedded", "single bytes", "published, in part"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "embedded":
        return locate(EMBEDDED_TEXT, "pipeline.json") / "text_encoder"
    if request.param == "single bytes":
        save_tokenizer(tmp_path)
        return tmp_path
    return write_text_alignment(tmp_path)


def test_ids_are_those_of_transformers(directory: Path) -> None:
    from transformers import CLIPTokenizer

    expected: Any = CLIPTokenizer(
        vocab=json.loads((directory / "vocab.json").read_text()),
        merges=[
            tuple(line.split()) for line in (directory / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        ],
    )
    tokenizer = TextTokenizer.load(directory)
    for text in sentences(1000):
        ids = tokenizer(text)
        assert len(ids) == CLIP_TOKENS
        assert ids == expected(text, max_length=CLIP_TOKENS, padding="max_length", truncation=True)["input_ids"], text


@pytest.mark.parametrize("token", [START, END])
def test_a_vocabulary_without_a_special_token_is_refused(tmp_path: Path, token: str) -> None:
    save_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary[token]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError) as caught:
        TextTokenizer.load(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'vocab.json'} is no vocabulary of CLIP (KeyError: '{token}')"
