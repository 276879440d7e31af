"""Encoding of sentences to tokens with the text model of CLIP, through transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.conditioning.pretrained import load_pretrained
from pipeline.conditioning.sentences import CLIP_TOKENS, CutNotice
from pipeline.errors import CheckpointError
from pipeline.weights.hub_cache import describe_missing

# Besides the text model, the published files hold the image model, the two projections and the temperature; and the
# numbers of the positions, which transformers saved before 4.31 and does not ignore in its first versions 5.
_UNUSED = r"vision_model\.|visual_projection\.|text_projection\.|logit_scale$|(text_model\.)?embeddings\.position_ids$"


class TextEncoder:
    """A text encoder, whose tokens [1, 77, C] TRELLIS is conditioned on.

    The tokens are the text model's state after its final norm, in float32. As upstream does, padding is not masked:
    the flow models see the padding tokens' states, too.

    null: [1, 77, C], the tokens of the empty sentence, which are the negative condition.
    channels: C.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Load a transformers directory of CLIPTextModel or CLIPModel; raise CheckpointError if that fails.

        The directory holds config.json, model.safetensors and the tokenizer's vocab.json and merges.txt.
        """
        from transformers import CLIPTextModel

        self._model = load_pretrained(CLIPTextModel, "text encoder", directory, device, _UNUSED)
        self._tokenizer = _load_tokenizer(directory)
        self._device = device
        config = self._model.config
        if config.max_position_embeddings < CLIP_TOKENS or config.vocab_size < len(self._tokenizer):
            raise CheckpointError(
                f"{directory / 'config.json'} has {config.max_position_embeddings} positions and {config.vocab_size} "
                f"tokens, but {CLIP_TOKENS} and the {len(self._tokenizer)} of the tokenizer are needed"
            )
        self._notice = CutNotice("the text checkpoint's encoder", CLIP_TOKENS)
        self.channels: int = config.hidden_size
        self.null = self("")

    @torch.inference_mode()
    def __call__(self, text: str) -> Tensor:
        """Encode text of any length, truncated to 75 tokens, to tokens [1, 77, C] float32 on the encoder's device.

        The first text that is truncated is told in the log.
        """
        self._notice.check(len(self._tokenizer(text, verbose=False)["input_ids"]))
        encoded = self._tokenizer(
            text, max_length=CLIP_TOKENS, padding="max_length", truncation=True, return_tensors="pt"
        )
        tokens: Tensor = self._model(input_ids=encoded["input_ids"].to(self._device)).last_hidden_state
        return tokens


def _load_tokenizer(directory: Path) -> Any:
    from transformers import CLIPTokenizer

    for name in ("vocab.json", "merges.txt"):
        if not (directory / name).is_file():
            raise CheckpointError(describe_missing(directory / name))
    try:
        return CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"cannot load the tokenizer in {directory}: {' '.join(str(error).split())}") from error
