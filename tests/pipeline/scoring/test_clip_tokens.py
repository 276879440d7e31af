"""Tokens of sentences, against those of open_clip 2.29.0."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.conditioning.sentences import CLIP_TOKENS
from pipeline.errors import CheckpointError
from pipeline.scoring.clip_tokens import ClipTokenizer
from tests.support.alignment_checkpoints import write_text_alignment
from tests.support.formula_weights import SCORE_DATA
from tests.support.score_views import OBJECTS, golden_scores

GOLDEN: dict[str, list[int]] = json.loads((SCORE_DATA / "clip_tokens.json").read_text())["tokens"]
GOLDEN |= {case["prompt"]: case["tokens"] for name in OBJECTS for case in golden_scores(name)["text"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_alignment(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> ClipTokenizer:
    return ClipTokenizer.load(directory)


@pytest.mark.parametrize("text", GOLDEN, ids=ascii)
def test_the_golden_prompts(tokenizer: ClipTokenizer, text: str) -> None:
    golden = GOLDEN[text]
    assert tokenizer(text).tolist() == [golden + [0] * (CLIP_TOKENS - len(golden))]


def test_a_long_prompt_ends_with_the_end_token(tokenizer: ClipTokenizer) -> None:
    tokens = tokenizer("a " * 500)
    assert (tokens.shape, int(tokens[0, -1]), int(tokens[0, -2])) == ((1, 77), tokenizer.end, 320)


def test_the_vocabulary_may_be_in_one_file(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    content = json.loads((SCORE_DATA / "clip_tokens.json").read_text())
    for merges in (content["merges"], [merge.split() for merge in content["merges"]]):
        model = {"type": "BPE", "vocab": content["vocabulary"], "merges": merges}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
        assert ClipTokenizer.load(tmp_path)("A hamburger").equal(tokenizer("A hamburger"))


def change(directory: Path, **ids: int | None) -> Path:
    """Set ids of the vocabulary, or remove tokens."""
    path = directory / "vocab.json"
    content = json.loads(path.read_text()) | ids
    path.write_text(json.dumps({token: index for token, index in content.items() if index is not None}))
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "vocab.json").unlink(), r"vocab\.json is missing"),
        (lambda folder: (folder / "merges.txt").unlink(), r"merges\.txt is missing"),
        (lambda folder: (folder / "vocab.json").write_text("{"), r"vocab\.json cannot be read"),
        (
            lambda folder: (folder / "merges.txt").write_text("#\nthree of them\n"),
            r"vocab\.json is no vocabulary of CLIP",
        ),
        (lambda folder: (folder / "merges.txt").write_text("#\nun known\n"), r"vocab\.json is no vocabulary of CLIP"),
        (lambda folder: change(folder, **{"<|startoftext|>": None}), r"KeyError: '<|startoftext|>'"),
        (lambda folder: change(folder, **{"q</w>": None}), r"KeyError: 'q</w>'"),
        (lambda folder: change(folder, more=50000), r"<\|endoftext\|> has the id 49407, which is not the largest"),
        (
            lambda folder: change(folder).rename(folder / "tokenizer.json"),
            r"tokenizer\.json is no vocabulary of CLIP \(KeyError: 'model'\)",
        ),
    ],
)
def test_what_is_no_vocabulary(directory: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(directory / name, tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        ClipTokenizer.load(tmp_path)


@pytest.mark.parametrize("package", ["ftfy", "regex"])
def test_a_missing_package_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=rf"needs {package}: pip install 'sn17-miner\[score\]'"):
        ClipTokenizer.load(directory)
