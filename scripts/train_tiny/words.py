"""The tokenizer of captions: a byte-pair encoding that knows the captions' words and spells all others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.text_conditioning import TOKENS
from scripts.train_tiny.objects import make_thing

# Enough for every word of every category to have come.
_SURVEYED = 4000
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(directory: Path) -> int:
    """Write vocab.json and merges.txt as CLIP's tokenizer reads them; returns the size of the vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    words = sorted({word for seed in range(_SURVEYED) for word in make_thing(seed).caption.split()})
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        # Letter after letter is joined to what stands before it; the last one carries the word's end.
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for length in range(1, len(letters)):
            merges["".join(letters[:length]), letters[length]] = None
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [joined for joined in dict.fromkeys(map("".join, merges)) if joined not in tokens]
    tokens += [START, END]
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(tokens)


def tokenize(sentences: Sequence[str], directory: Path) -> Tensor:
    """Sentences -> ids [N, 77] int64, as the pipeline's text encoder makes them."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    encoded = tokenizer(list(sentences), max_length=TOKENS, padding="max_length", truncation=True)
    return torch.tensor(encoded["input_ids"])
