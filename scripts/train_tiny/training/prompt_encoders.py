"""The tokenizer and the encoders of prompts, and the conditions that they make of the training set's prompts.

The tokenizer is a byte-pair encoding that has a token for each word of the captions and spells all others.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels, normalised_tokens
from pipeline.conditioning.text_tokenizer import TextTokenizer
from pipeline.weights.checkpoint_writer import save_tokenizer
from scripts.train_tiny.architecture import build_image_encoder, build_text_encoder
from scripts.train_tiny.data.dataset import Dataset
from scripts.train_tiny.data.objects import make_object

IMAGE_ENCODER, TEXT_ENCODER = "image_encoder", "text_encoder"
# The text encoder that is shipped, after its own stage of training.
FINAL_TEXT_ENCODER = "final_text_encoder"
# Share of conditions that are replaced by the negative one, for classifier-free guidance.
_DROP_RATE = 0.12
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
    tokenizer = TextTokenizer.load(directory)
    return torch.tensor([tokenizer(text) for text in texts])


class PromptEncoders:
    """The image and the text encoder of the shipped sizes, applied to a training set."""

    def __init__(self, dataset: Dataset, folder: Path, *, trained: bool) -> None:
        """Build fresh encoders for training, or load those that an earlier stage saved in the folder, for inference."""
        device = dataset.images.device
        self._dataset = dataset
        directory = folder / TEXT_ENCODER
        vocabulary_size = write_tokenizer(directory)
        self._captions = tokenize(dataset.captions, directory).to(device)
        self._no_caption = tokenize([""], directory).to(device)
        self.image, self.text = build_image_encoder(), build_text_encoder(vocabulary_size)
        if trained:
            self.image = type(self.image).from_pretrained(folder / IMAGE_ENCODER, local_files_only=True)
            self.text = type(self.text).from_pretrained(directory, local_files_only=True)
        self.image.layernorm = nn.Identity()
        for encoder in (self.image, self.text):
            encoder.to(device).float().train(not trained).requires_grad_(not trained)

        # The affine map of normalising pixels, computed beforehand: a CUDA graph must not copy constants to the device.
        ends = torch.tensor([0.0, 1.0], device=device).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        self._bias, white = normalised_pixels(ends)
        self._gain = white - self._bias

    def save(self, folder: Path) -> None:
        """Write both encoders in the library's format, whose tensor names differ from those in memory."""
        with_norm = build_image_encoder()
        with_norm.load_state_dict(self.image.state_dict(), strict=False)
        with_norm.save_pretrained(folder / IMAGE_ENCODER)
        self.text.save_pretrained(folder / TEXT_ENCODER)

    def image_conditions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return conditions [B, T, C] by the images of some objects, and the same tokens with none dropped.

        Dropped conditions are zero, as the pipeline's negative condition is.
        """
        tokens = self.image_tokens(self._dataset.images[rows])
        return tokens * ~self._draw_dropped(rows)[..., None], tokens

    def text_conditions(self, rows: Tensor) -> Tensor:
        """Return conditions [B, 77, C] by the captions of some objects; dropped ones are of the empty text."""
        ids = torch.where(self._draw_dropped(rows), self._no_caption, self._captions[rows])
        return self.text(input_ids=ids).last_hidden_state

    def _draw_dropped(self, rows: Tensor) -> Tensor:
        return torch.rand(len(rows), 1, device=rows.device) < _DROP_RATE

    def image_tokens(self, images: Tensor) -> Tensor:
        """Return the tokens [B, T, C] of images [B, 3, S, S] uint8, as the pipeline makes them."""
        pixels = images.float() / 255 * self._gain + self._bias
        return normalised_tokens(self.image(pixels).last_hidden_state)
