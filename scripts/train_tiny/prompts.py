"""What the flows are conditioned on while they are trained: pictures, captions, or nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels, normalised_tokens
from scripts.train_tiny.architecture import image_encoder, text_encoder
from scripts.train_tiny.pool import Pool
from scripts.train_tiny.words import tokenize, write_tokenizer

IMAGE_ENCODER, TEXT_ENCODER = "image_encoder", "text_encoder"
# As it is shipped, having learned colours, too.
FINAL_TEXT_ENCODER = "final_text_encoder"
_DROPPED = 0.12


class Prompts:
    """Tokens of the pool's pictures and captions, by encoders of the shipped size.

    images, texts: the two encoders.
    """

    def __init__(self, pool: Pool, folder: Path, *, trained: bool) -> None:
        """With fresh encoders, or with those that were saved in the folder, for use."""
        device = pool.pictures.device
        self._pool = pool
        directory = folder / TEXT_ENCODER
        vocabulary = write_tokenizer(directory)
        self._captions = tokenize(pool.captions, directory).to(device)
        self._no_caption = tokenize([""], directory).to(device)
        self.images, self.texts = image_encoder(), text_encoder(vocabulary)
        if trained:
            self.images = type(self.images).from_pretrained(folder / IMAGE_ENCODER, local_files_only=True)
            self.texts = type(self.texts).from_pretrained(directory, local_files_only=True)
        self.images.layernorm = nn.Identity()
        for encoder in self.networks:
            encoder.to(device).float().train(not trained).requires_grad_(not trained)

        # What normalising pixels comes to, on the device beforehand: a graph must not copy anything there.
        ends = torch.tensor([0.0, 1.0], device=device).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        self._bias, white = normalised_pixels(ends)
        self._gain = white - self._bias

    @property
    def networks(self) -> list[nn.Module]:
        """The image and the text encoder."""
        return [self.images, self.texts]

    def save(self, folder: Path) -> None:
        """Write both encoders, whose tensors have other names in memory with every version of the library."""
        with_norm = image_encoder()
        with_norm.load_state_dict(self.images.state_dict(), strict=False)
        with_norm.save_pretrained(folder / IMAGE_ENCODER)
        self.texts.save_pretrained(folder / TEXT_ENCODER)

    def of_pictures(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions [B, T, C] by the pictures of some objects, some of them dropped as the pipeline's negative
        condition is, to zero; and the same with none dropped."""
        tokens = self.image_tokens(self._pool.pictures[chosen])
        return tokens * ~self._dropped(chosen)[..., None], tokens

    def of_sentences(self, chosen: Tensor) -> Tensor:
        """Conditions [B, 77, C] by the captions of some objects, some of them replaced by the empty sentence."""
        ids = torch.where(self._dropped(chosen), self._no_caption, self._captions[chosen])
        states: Tensor = self.texts(input_ids=ids).last_hidden_state
        return states

    def _dropped(self, chosen: Tensor) -> Tensor:
        return torch.rand(len(chosen), 1, device=chosen.device) < _DROPPED

    def image_tokens(self, pictures: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> tokens [B, T, C], as the pipeline makes them."""
        pixels = pictures.float() / 255 * self._gain + self._bias
        return normalised_tokens(self.images(pixels).last_hidden_state)
