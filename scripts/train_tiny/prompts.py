"""What the flows are conditioned on while they are trained: pictures, captions, or nothing."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning import normalised_pixels, normalised_tokens
from scripts.train_tiny.architecture import image_encoder, text_encoder
from scripts.train_tiny.pool import Pool
from scripts.train_tiny.words import tokenize, write_tokenizer

# Every so many steps the condition is a sentence instead of a picture.
_SENTENCES_EVERY = 4
_DROPPED = 0.12


class Prompts:
    """Tokens of the pool's pictures and captions, by encoders of the shipped size.

    networks: the two encoders, trained or to be trained.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        device = pool.pictures.device
        self._pool = pool
        directory = folder / "text_encoder"
        vocabulary = write_tokenizer(directory)
        self._captions = tokenize(pool.captions, directory).to(device)
        self._no_caption = tokenize([""], directory).to(device)
        self.images, self.texts = image_encoder().to(device), text_encoder(vocabulary).to(device)
        self._steps = count(1)

    @property
    def networks(self) -> list[nn.Module]:
        """The image and the text encoder."""
        return [self.images, self.texts]

    def tokens(self, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Conditions [B, S, C] of some objects, some of them dropped as the pipeline's negative conditions are, and
        the pictures' own tokens with none dropped, or None in a step on sentences."""
        dropped = torch.rand(len(chosen), 1, device=chosen.device) < _DROPPED
        if next(self._steps) % _SENTENCES_EVERY == 0:
            ids = torch.where(dropped, self._no_caption, self._captions[chosen])
            return self.texts(input_ids=ids).last_hidden_state, None
        tokens = self.image_tokens(self._pool.pictures[chosen])
        return torch.where(dropped[..., None], 0.0, tokens), tokens

    def image_tokens(self, pictures: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> tokens [B, T, C], as the pipeline makes them."""
        return normalised_tokens(self.images(normalised_pixels(pictures.float() / 255)).last_hidden_state)
