"""Image to tokens: DINOv2 with registers, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import CheckpointError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TOKEN_NORM_EPS = 1e-5


class ImageEncoder:
    """Picture -> tokens [1, 1 + registers + patches, C], as TRELLIS conditions on them.

    The tokens are the network's state before its own final norm, then normalised without affine. The
    network runs in float32, as upstream's does.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Load a transformers directory (config.json, model.safetensors); raises CheckpointError."""
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError
        from transformers import Dinov2WithRegistersModel
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error

        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory / 'config.json'} is missing")
        disable_progress_bar()
        # transformers would fill in random weights where the file does not fit, and only warn; we refuse below.
        set_verbosity_error()
        try:
            loaded: Any = Dinov2WithRegistersModel.from_pretrained(
                directory,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"cannot load the image encoder in {directory}: {reason}") from error
        model, report = loaded
        mismatched = {name for name, *_ in report["mismatched_keys"]}
        if wrong := sorted({*report["missing_keys"], *report["unexpected_keys"], *mismatched}):
            raise CheckpointError(
                f"the tensors in {directory} do not fit config.json: {wrong[0]} is missing, unexpected or of another "
                f"shape ({len(wrong)} such in all)"
            )
        model.layernorm = nn.Identity()
        self._model = model.to(device).eval()
        self._device = device
        self.picture_size: int = model.config.image_size
        self.channels: int = model.config.hidden_size

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture of any square size -> tokens [1, T, C] float32 on the encoder's device."""
        resized = picture.resize((self.picture_size, self.picture_size), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(resized)).to(self._device).permute(2, 0, 1).float() / 255
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
        tokens: Tensor = self._model(((pixels - mean) / std)[None]).last_hidden_state
        return F.layer_norm(tokens, tokens.shape[-1:], eps=_TOKEN_NORM_EPS)
