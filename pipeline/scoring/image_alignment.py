"""Alignment of views with a picture, as the validator measures it with the vision tower of LLM2CLIP.

LLM2CLIP comes with code of its own, which is never run: its tower is CLIP's, and only the tower's tensors are read.
Quirks of the validator are reproduced, each with a comment.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.encoders.clip import ClipVision, ClipVisionSizes, build_clip_vision
from pipeline.encoders.settings import EncoderSettings
from pipeline.scoring.clip_pixels import clip_pixels
from pipeline.scoring.outliers import filter_outliers, geometric_mean
from pipeline.weights.locate import locate
from pipeline.weights.tensors import read_tensors


@dataclass(frozen=True, eq=False)
class ImageAlignment:
    """Views and a picture -> how much they look alike. One call at a time.

    size:  side of the pictures that the network takes.
    dtype: of weights and pictures; float32 on a CPU, float16 on a GPU, as in the validator.
    """

    network: ClipVision
    size: int
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def load(reference: str, device: torch.device) -> "ImageAlignment":
        """Load the tower of a directory or Hugging Face id onto a device.

        Raises CheckpointError if a file is missing, naming the command that downloads it, is damaged or does not fit.
        """
        directory = locate(reference, "config.json")
        sizes = ClipVisionSizes.read(EncoderSettings.read(directory / "config.json").section("vision_config"))
        weights = directory / "model.safetensors"
        tensors = read_tensors(weights, lambda name: name.startswith(("vision_model.", "visual_projection.")))
        network = build_clip_vision(sizes, tensors, weights)
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        return ImageAlignment(network.to(device, dtype), sizes.image_size, device, dtype)

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> Tensor:
        """Return the embedding of a picture of any size and mode: unit length, [1, C]."""
        # Quirk of the validator: white behind pictures with four bands, while grey ones lose their alpha.
        if len(image.getbands()) == 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).to(self.device)
        return self._embed(pixels[None])

    @torch.inference_mode()
    def cosines(self, views: Tensor, prompt: Tensor) -> Tensor:
        """Return the cosine of each view with the prompt: [V, S, S, 3] uint8 and [1, C] -> [V] float32."""
        return (prompt @ self._embed(views).T)[0].float()

    def measure(self, views: Tensor, prompt: Tensor) -> float:
        """Return the alignment of views [V, S, S, 3] uint8, V at least 6, with a prompt's embedding: 0..1 or NaN.

        It is NaN if a view that the validator keeps has a negative cosine.
        """
        # A row, which the validator sorts before it filters it.
        return geometric_mean(filter_outliers(self.cosines(views, prompt).cpu().numpy()[None]))

    def features(self, views: Tensor) -> Tensor:
        """Return embeddings that are not yet of unit length: [V, H, W, 3] uint8 -> [V, C]."""
        # Squeezed to a square, whatever the picture's proportions.
        embeddings: Tensor = self.network(clip_pixels(views, self.size, self.dtype))
        return embeddings

    def _embed(self, views: Tensor) -> Tensor:
        embeddings = self.features(views)
        lengths: Tensor = embeddings.norm(dim=-1, keepdim=True)
        return embeddings / lengths
