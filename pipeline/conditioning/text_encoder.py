"""Encoding of sentences to tokens with the text model of CLIP."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.conditioning.sentences import CLIP_TOKENS
from pipeline.conditioning.text_tokenizer import TextTokenizer
from pipeline.encoders.clip import ClipTextSizes, build_clip_text
from pipeline.encoders.settings import EncoderSettings
from pipeline.errors import CheckpointError
from pipeline.weights.tensors import read_tensors


class TextEncoder:
    """A text encoder, whose tokens [1, 77, C] TRELLIS is conditioned on.

    The tokens are the text model's state after its final norm, in float32. As upstream does, padding is not masked:
    the flow models see the padding tokens' states, too.

    null: [1, 77, C], the tokens of the empty sentence, which are the negative condition.
    channels: C.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Load a directory as transformers writes it for CLIPTextModel or CLIPModel.

        It holds config.json, model.safetensors and the tokenizer's vocab.json and merges.txt. Raises CheckpointError
        if one is missing or damaged, or if they do not fit.
        """
        sizes = ClipTextSizes.read(_settings(directory / "config.json"))
        weights = directory / "model.safetensors"
        self._network = build_clip_text(sizes, read_tensors(weights, _is_of_text_model), weights).to(device)
        self._tokenizer = TextTokenizer.load(directory)
        if sizes.positions < CLIP_TOKENS or sizes.vocabulary < self._tokenizer.size:
            raise CheckpointError(
                f"{directory / 'config.json'} has {sizes.positions} positions and {sizes.vocabulary} tokens, but "
                f"{CLIP_TOKENS} and the {self._tokenizer.size} of the tokenizer are needed"
            )
        self._device = device
        self.channels = sizes.transformer.channels
        self.null = self("")

    @torch.inference_mode()
    def __call__(self, text: str) -> Tensor:
        """Encode text of any length, truncated to 75 tokens, to tokens [1, 77, C] float32 on the encoder's device.

        The first text that is truncated is told in the log.
        """
        tokens: Tensor = self._network(torch.tensor([self._tokenizer(text)], device=self._device))
        return tokens


def _settings(path: Path) -> EncoderSettings:
    """Return the settings of the text model, which a file of a whole CLIP has in a section."""
    settings = EncoderSettings.read(path)
    is_whole = settings.choice("model_type", ("clip_text_model", "clip")) == "clip"
    return settings.section("text_config") if is_whole else settings


def _is_of_text_model(name: str) -> bool:
    """Return whether a tensor is none of those that the file of a whole CLIP has beside the text model's."""
    return not name.startswith(("vision_model.", "visual_projection.", "text_projection.")) and name != "logit_scale"
