"""The tokenizer of captions: a byte-pair encoding that knows the captions' words and spells all others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.conditioning.text_encoder import TOKENS
from pipeline.weights.checkpoint_writer import save_tokenizer
from scripts.train_tiny.objects import make_thing

# Enough for every word of every category to have come.
_SURVEYED = 4000
# More tokens than it takes to make a token of every word.
_AMPLE = 10_000


def write_tokenizer(directory: Path) -> int:
    """Write vocab.json and merges.txt as CLIP's tokenizer reads them; returns the size of the vocabulary."""
    return save_tokenizer(directory, _merges())


def _merges() -> list[tuple[str, str]]:
    """Pairs of tokens, in order, that put the captions' words together."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(vocab_size=_AMPLE, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator((make_thing(seed).caption for seed in range(_SURVEYED)), trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges]


def tokenize(sentences: Sequence[str], directory: Path) -> Tensor:
    """Sentences -> ids [N, 77] int64, as the pipeline's text encoder makes them."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    encoded = tokenizer(list(sentences), max_length=TOKENS, padding="max_length", truncation=True)
    return torch.tensor(encoded["input_ids"])
