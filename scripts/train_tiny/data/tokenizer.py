"""The tokenizer of captions: a byte-pair encoding that has a token for each of their words and spells all others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.conditioning.text_encoder import TOKENS
from pipeline.weights.checkpoint_writer import save_tokenizer
from scripts.train_tiny.data.objects import make_object

# Enough objects for every word of every category to occur.
_CORPUS_SIZE = 4000
# More tokens than are needed for a token of every word.
_MAX_VOCABULARY = 10_000


def write_tokenizer(directory: Path) -> int:
    """Write vocab.json and merges.txt in the form of CLIP's tokenizer; return the size of the vocabulary."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(vocab_size=_MAX_VOCABULARY, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator((make_object(seed).caption for seed in range(_CORPUS_SIZE)), trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return save_tokenizer(directory, [(first, second) for first, second in merges])


def tokenize(texts: Sequence[str], directory: Path) -> Tensor:
    """Return the token ids [N, 77] int64 of texts, as the pipeline's text encoder makes them."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    encoded = tokenizer(list(texts), max_length=TOKENS, padding="max_length", truncation=True)
    return torch.tensor(encoded["input_ids"])
