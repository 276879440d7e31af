"""Alignment of views with a sentence, as the validator measures it with open_clip's convnext_large_d.

Quirks of the validator are reproduced, each with a comment.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.conditioning.sentences import CLIP_TOKENS
from pipeline.errors import CheckpointError
from pipeline.scoring.clip_pixels import clip_pixels
from pipeline.scoring.clip_tokens import ClipTokenizer
from pipeline.scoring.convnext_clip import Architecture, ConvNextClip
from pipeline.scoring.outliers import filter_outliers, geometric_mean
from pipeline.weights.files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, read_json
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate
from pipeline.weights.tensors import assign_tensors, read_tensors

# Quirk of the validator: not the 256 pixels that the network was trained with.
_SIZE = 224
# The mean cosine that the validator counts as 1; larger ones are not clipped.
_FULL_ALIGNMENT = 0.35
# The temperature of the training's loss, which no embedding depends on.
_UNUSED = "logit_scale"


@dataclass(frozen=True, eq=False)
class TextAlignment:
    """Views and a sentence -> how well they fit. One call at a time.

    dtype: float32 on a CPU; on a GPU float16, which means autocast, as in the validator.
    """

    network: ConvNextClip
    tokenizer: ClipTokenizer
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def load(reference: str, device: torch.device) -> "TextAlignment":
        """Load the network and the vocabulary of a directory or Hugging Face id onto a device.

        Raises CheckpointError if a file is missing, naming the command that downloads it, is damaged or does not fit,
        or if a package is not installed.
        """
        directory = locate(reference, OPEN_CLIP_CONFIG)
        network = _load_network(directory / OPEN_CLIP_CONFIG, directory / OPEN_CLIP_WEIGHTS)
        tokenizer = ClipTokenizer.load(directory)
        context, vocabulary = len(network.positional_embedding), network.token_embedding.num_embeddings
        if context != CLIP_TOKENS or tokenizer.end >= vocabulary:
            raise CheckpointError(
                f"{directory / OPEN_CLIP_CONFIG} has {context} positions and {vocabulary} tokens, but {CLIP_TOKENS} "
                f"and the {tokenizer.end + 1} of the tokenizer are needed"
            )
        if device.type == "cpu":
            return TextAlignment(network, tokenizer, device, torch.float32)
        network.store_for_autocast(device)
        return TextAlignment(network, tokenizer, device, torch.float16)

    def encode(self, text: str) -> Tensor:
        """Return the embedding of a sentence: unit length, [1, C]."""
        return self.encode_tokens(self.tokenizer(text))

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return the embedding of token ids [1, 77] int64: unit length, [1, C]."""
        with self._autocast():
            embedding = self.network.encode_text(tokens)
            embedding /= embedding.norm(dim=-1, keepdim=True)
        return embedding

    @torch.inference_mode()
    def cosines(self, views: Tensor, prompt: Tensor) -> Tensor:
        """Return the cosine of each view with the prompt: [V, S, S, 3] uint8 and [1, C] -> [V] float32."""
        with self._autocast():
            embeddings = self.network.encode_image(clip_pixels(views, _SIZE, self.dtype))
            embeddings /= embeddings.norm(dim=-1, keepdim=True)
        return (embeddings @ prompt.T)[:, 0].float()

    def measure(self, views: Tensor, prompt: Tensor) -> float:
        """Return the alignment of views [V, S, S, 3] uint8, V at least 6, with a prompt's embedding: 0..2.86.

        It is 0 if a view that the validator keeps has a cosine of 0 or less.
        """
        # A column, which the validator filters without sorting it.
        kept = filter_outliers(self.cosines(views, prompt).cpu().numpy()[:, None])
        return geometric_mean(np.clip(kept, 0, 1)) / _FULL_ALIGNMENT

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.float16, enabled=self.dtype is torch.float16)


def _load_network(config: Path, weights: Path) -> ConvNextClip:
    """Load the network on the CPU, in float32."""
    settings = read_json(config)
    tensors = read_tensors(weights, lambda name: name != _UNUSED)
    try:
        sizes = Architecture.read(settings["model_cfg"], {name: tensor.shape for name, tensor in tensors.items()})
    except KeyError as missing:
        raise CheckpointError(f"{config} or {weights} lacks {missing}{cure(weights)}") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config} is not supported: {error}{cure(config)}") from None
    # On the meta device no time is spent on random weights that are replaced.
    with torch.device("meta"):
        network = ConvNextClip(sizes)
    assign_tensors(network, tensors, weights)
    return network
