"""Alignment of views with a picture, as the validator measures it with the vision tower of LLM2CLIP.

LLM2CLIP comes with code of its own, which is never run: its tower is the CLIP vision transformer of transformers, and
only the tower's tensors are read. Quirks of the validator are reproduced, each with a comment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.scoring.clip_pixels import clip_pixels
from pipeline.scoring.outliers import filter_outliers, geometric_mean
from pipeline.scoring.tensors import assign_tensors, read_tensors
from pipeline.weights.files import read_json
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate

_TOWER, _PROJECTION = "vision_model.", "visual_projection."
# Indices 0, 1, 2, …, which old files hold as a tensor.
_POSITIONS = "vision_model.embeddings.position_ids"
# What the tower's architecture depends on; the files' further settings are those of other transformers releases.
_SETTINGS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImageAlignment:
    """Views and a picture -> how much they look alike. One call at a time.

    size:  side of the pictures that the network takes.
    dtype: of weights and pictures; float32 on a CPU, float16 on a GPU, as in the validator.
    """

    network: nn.Module
    size: int
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def load(reference: str, device: torch.device) -> "ImageAlignment":
        """Load the tower of a directory or Hugging Face id onto a device.

        Raises CheckpointError if a file is missing, naming the command that downloads it, is damaged or does not fit.
        """
        directory = locate(reference, "config.json")
        network, size = _load_network(directory / "config.json", directory / "model.safetensors")
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        return ImageAlignment(network.to(device, dtype), size, device, dtype)

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
        embeddings: Tensor = self.network(clip_pixels(views, self.size, self.dtype)).image_embeds
        return embeddings

    def _embed(self, views: Tensor) -> Tensor:
        embeddings = self.features(views)
        lengths: Tensor = embeddings.norm(dim=-1, keepdim=True)
        return embeddings / lengths


def _load_network(config: Path, weights: Path) -> tuple[nn.Module, int]:
    """Load the tower and its projection on the CPU, in float32; also return the side of the pictures that it takes."""
    # Imported only when needed, because it is slow.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    content = read_json(config)
    tensors = read_tensors(weights, lambda name: name.startswith((_TOWER, _PROJECTION)) and name != _POSITIONS)
    try:
        given: dict[str, Any] = content["vision_config"]
        projection_dim = len(tensors[f"{_PROJECTION}weight"])
    except KeyError as missing:
        raise CheckpointError(f"{config} or {weights} lacks {missing}{cure(weights)}") from None
    try:
        settings = CLIPVisionConfig(**{key: given[key] for key in _SETTINGS if key in given})
        settings.projection_dim = projection_dim
        # On the meta device no time is spent on random weights that are replaced.
        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(settings)
            if f"{_PROJECTION}bias" in tensors:
                network.visual_projection = nn.Linear(settings.hidden_size, projection_dim)
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{config} is not supported ({reason}){cure(config)}") from None
    assign_tensors(network, tensors, weights)
    # Not a weight, and so left on the meta device.
    embeddings = network.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return network, settings.image_size
