"""Encoding of images to tokens with DINOv2 with registers."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.encoders.dinov2 import Dinov2Sizes, build_dinov2
from pipeline.encoders.settings import EncoderSettings
from pipeline.weights.tensors import read_tensors

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TOKEN_NORM_EPS = 1e-5


class ImageEncoder:
    """An image encoder, whose tokens [1, 1 + registers + patches, C] TRELLIS is conditioned on.

    The tokens are the network's state before its own final norm, then normalised without affine. The
    network runs in float32, as upstream's does.

    picture_size: side in pixels of the pictures that the network takes.
    channels: C.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Load a directory with config.json and model.safetensors, as transformers writes them for DINOv2.

        Raises CheckpointError if a file is missing or damaged, or if the two do not fit.
        """
        sizes = Dinov2Sizes.read(EncoderSettings.read(directory / "config.json"))
        weights = directory / "model.safetensors"
        self._network = build_dinov2(sizes, read_tensors(weights), weights).to(device)
        self._device = device
        self.picture_size = sizes.image_size
        self.channels = sizes.channels

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> Tensor:
        """Encode an RGB image of any square size to tokens [1, T, C] float32 on the encoder's device."""
        resized = picture.resize((self.picture_size, self.picture_size), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(resized)).to(self._device).permute(2, 0, 1).float() / 255
        return normalised_tokens(self._network(normalised_pixels(pixels[None])))


def normalised_pixels(pixels: Tensor) -> Tensor:
    """Normalise pixels [B, 3, S, S] in 0..1 by the mean and deviation that the encoder was trained with."""
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
    return (pixels - mean) / std


def normalised_tokens(states: Tensor) -> Tensor:
    """Normalise the encoder's states [B, T, C] before its own final norm to tokens of the same shape."""
    return F.layer_norm(states, states.shape[-1:], eps=_TOKEN_NORM_EPS)
