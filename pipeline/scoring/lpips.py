"""LPIPS with AlexNet: how different two pictures look to a network (Zhang et al. 2018, arXiv 1801.03924).

The convolutions are AlexNet's as torchvision publishes them; the trained heads come with the package torchmetrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.weights.alexnet import ALEXNET_URL, check_published
from pipeline.weights.hub_cache import describe_missing

# Of the heads in the package torchmetrics; they are called lin0.model.1.weight to lin4.model.1.weight.
_HEADS_FILE = "functional/image/lpips_models/alex.pth"
# Of pixels in -1..1, per channel.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# Added to the squared length of a feature before it is divided by it.
_EPS = 1e-8

Features = tuple[Tensor, ...]
"""Of V pictures: one tensor [V, C, H, W] for each of the five convolutions, of unit length over the channels."""


@dataclass(frozen=True, eq=False)
class Lpips:
    """AlexNet's convolutions with their activations, and the weights [1, C, 1, 1] of the channels of each; float32."""

    layers: nn.Sequential
    heads: tuple[Tensor, ...]

    @staticmethod
    def load(alexnet: Path, device: torch.device) -> "Lpips":
        """Load AlexNet and the heads onto a device; torchmetrics must be installed.

        alexnet: the published file, a pickle, or a safetensors file with the same names; its classifier is not needed.
        Raises CheckpointError if a file is missing, damaged, another one than published, or lacks a tensor.
        """
        with torch.device("meta"):
            layers = create_alexnet()
        shapes = {f"features.{name}": parameter.shape for name, parameter in layers.named_parameters()}
        tensors = _take(shapes, _read_alexnet(alexnet), alexnet)
        layers.load_state_dict({name.removeprefix("features."): t for name, t in tensors.items()}, assign=True)
        channels = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
        head_shapes = {f"lin{i}.model.1.weight": torch.Size((1, c, 1, 1)) for i, c in enumerate(channels)}
        with resources.as_file(resources.files("torchmetrics") / _HEADS_FILE) as file:
            heads = _take(head_shapes, _read_pickle(file, "install torchmetrics again"), file)
        return Lpips(
            layers.to(device).eval().requires_grad_(False), tuple(heads[name].to(device) for name in head_shapes)
        )

    def encode(self, pictures: Tensor) -> Features:
        """Encode pictures [V, 3, H, W] in 0..1."""
        shift, scale = (pictures.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        hidden = (2 * pictures - 1 - shift) / scale
        features = []
        for layer in self.layers:
            hidden = layer(hidden)
            if isinstance(layer, nn.ReLU):
                features.append(hidden / (_EPS + hidden.square().sum(dim=1, keepdim=True)).sqrt())
        return tuple(features)

    def distances(self, a: Features, b: Features) -> Tensor:
        """Return the distances [V] of pictures to others: 0 or more, 0 for the same picture."""
        terms = [
            ((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in zip(a, b, self.heads, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


def create_alexnet() -> nn.Sequential:
    """Create the `features` of torchvision's AlexNet, up to the last activation."""
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
    )


def _read_alexnet(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{describe_missing(path)}; it is published as {ALEXNET_URL}")
    if path.suffix == ".safetensors":
        # Imported only when needed, because it is slow.
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
        return tensors
    check_published(path, "download it again")
    return _read_pickle(path, "download it again")


def _read_pickle(path: Path, cure: str) -> Mapping[str, Any]:
    """Read tensors, and nothing that could run code, from a pickle. Raises CheckpointError, which ends in the cure."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        # torch's own message recommends to load the file whatever is in it.
        raise CheckpointError(f"{path} is damaged or not a file of tensors ({type(error).__name__}): {cure}") from None
    return content if isinstance(content, Mapping) else {}


def _take(shapes: Mapping[str, torch.Size], content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the given names and shapes in float32; raise CheckpointError if one is not there."""
    for name, shape in shapes.items():
        if getattr(content.get(name), "shape", None) != shape:
            raise CheckpointError(f"the tensors in {path} do not fit: {name} is missing or not of shape {list(shape)}")
    return {name: content[name].float() for name in shapes}
