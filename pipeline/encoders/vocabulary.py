"""The vocabulary of a byte-pair encoding, in the files that CLIP's is published in."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.errors import CheckpointError
from pipeline.weights.files import TOKENIZER_FILE, VOCABULARY_FILES, read_json
from pipeline.weights.hub_cache import cure, describe_missing

# The names of the two special tokens in the vocabulary's file.
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
Tokenizer = TypeVar("Tokenizer")


def build_tokenizer(directory: Path, build: Callable[[dict[str, int], list[tuple[str, str]]], Tokenizer]) -> Tokenizer:
    """Return what `build` makes of the vocabulary of a directory: vocab.json and merges.txt, or else tokenizer.json.

    build: takes the ids of tokens, and the pairs to join, the most important first.
    Raises CheckpointError if the vocabulary is missing or damaged, or if `build` fails.
    """
    file, merges = (directory / name for name in VOCABULARY_FILES)
    # A link that leads nowhere stands for a file that was there.
    if not (file.exists() or file.is_symlink()) and (directory / TOKENIZER_FILE).exists():
        file = merges = directory / TOKENIZER_FILE
    content = read_json(file)
    try:
        if file == merges:
            vocabulary, pairs = content["model"]["vocab"], content["model"]["merges"]
        else:
            # The first line is a comment.
            vocabulary, pairs = content, merges.read_text(encoding="utf-8").splitlines()[1:]
        return build(vocabulary, [_pair(pair) for pair in pairs if pair])
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(describe_missing(merges)) from None
    except Exception as error:  # tokenizers raises plain Exception
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{file} is no vocabulary of CLIP ({reason}){cure(file)}") from None


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two tokens of a merge, "a b" or ["a", "b"]."""
    first, second = merge.split() if isinstance(merge, str) else merge
    return first, second
