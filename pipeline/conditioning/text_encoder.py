"""Sentence to tokens: the text half of CLIP, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.conditioning.pretrained import load_pretrained
from pipeline.errors import CheckpointError

TOKENS = 77
# Beside the text model, the published files hold the image model, the two projections and the temperature.
_OTHER_HALF = r"vision_model\.|visual_projection\.|text_projection\.|logit_scale$"


class TextEncoder:
    """Sentence -> tokens [1, 77, C], as TRELLIS conditions on them.

    The tokens are the text model's state after its final norm, in float32. Padding is not masked, as upstream does
    not: the flow models see the padding tokens' states, too.

    null: [1, 77, C], the condition of the empty sentence, which guidance leads away from.
    channels: C.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Load a transformers directory of CLIPTextModel or CLIPModel; raises CheckpointError.

        It holds config.json, model.safetensors and the tokenizer's vocab.json and merges.txt.
        """
        from transformers import CLIPTextModel

        self._model = load_pretrained(CLIPTextModel, "text encoder", directory, device, _OTHER_HALF)
        self._tokenizer = _load_tokenizer(directory)
        self._device = device
        config = self._model.config
        if config.max_position_embeddings < TOKENS or config.vocab_size < len(self._tokenizer):
            raise CheckpointError(
                f"{directory / 'config.json'} has {config.max_position_embeddings} positions and {config.vocab_size} "
                f"tokens; needed are {TOKENS} and the {len(self._tokenizer)} of the tokenizer"
            )
        self.channels: int = config.hidden_size
        self.null = self("")

    @torch.inference_mode()
    def __call__(self, text: str) -> Tensor:
        """Text of any length, cut after 75 tokens -> tokens [1, 77, C] float32 on the encoder's device."""
        encoded = self._tokenizer(text, max_length=TOKENS, padding="max_length", truncation=True, return_tensors="pt")
        tokens: Tensor = self._model(input_ids=encoded["input_ids"].to(self._device)).last_hidden_state
        return tokens


def _load_tokenizer(directory: Path) -> Any:
    from transformers import CLIPTokenizer

    for name in ("vocab.json", "merges.txt"):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing")
    try:
        return CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises this very class
        raise CheckpointError(f"cannot load the tokenizer in {directory}: {' '.join(str(error).split())}") from error
