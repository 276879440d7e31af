"""Weights by formula: a tensor's values follow from its name and shape, so that golden data need no files of weights.

Of the tensor `name`, with h = crc32(name), a = 0.5 + (h mod 2^16) / 2^16 and b = 2 pi floor(h / 2^16) / 2^16, the value
at the flat index i is offset + amplitude sin(a ((i^2 + 7 i) mod 65521) + b), computed in float64 and stored as float32.
The phase is quadratic, since a linear one would make every matrix of rank 2.
"""

import json
import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tests.support.paths import DATA

SCORE_DATA = DATA / "score"
"""Golden data of the validator's scores; see its README.md."""

_EMBEDDINGS = (
    "cls_token",
    "mask_token",
    "position_embeddings",
    "class_embedding",
    "position_embedding.weight",
    "positional_embedding",
    "token_embedding.weight",
)
# The largest prime below 2^16.
_MODULUS = 65521


def formula_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor called `name` as a float32 array of `shape`."""
    checksum = zlib.crc32(name.encode())
    slope = 0.5 + (checksum % 65536) / 65536
    phase = 2 * math.pi * (checksum // 65536) / 65536
    index = np.arange(math.prod(shape), dtype=np.int64)
    offset, amplitude = _offset_and_amplitude(name, shape)
    values = offset + amplitude * np.sin(slope * ((index * index + 7 * index) % _MODULUS) + phase)
    return values.astype(np.float32).reshape(shape)


def formula_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return a float32 tensor for each name and shape."""
    return {name: torch.from_numpy(formula_array(name, tuple(shape))) for name, shape in shapes.items()}


def golden_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a network of the golden data: "text", "quality", "image" or "lpips"."""
    tensors = json.loads((SCORE_DATA / "networks.json").read_text())[network]["tensors"]
    return {name: tuple(shape) for name, shape in tensors}


def fingerprint(weights: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the sum of all values and that of their magnitudes, as networks.json records them."""
    arrays = [weights[name].double() for name in sorted(weights)]
    return sum(float(a.sum()) for a in arrays), sum(float(a.abs().sum()) for a in arrays)


def _offset_and_amplitude(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if not shape:
        return 1.0, 0.1
    if name.endswith(_EMBEDDINGS):
        return 0.0, 0.5
    if name.endswith("bias"):
        return 0.0, 0.05
    # Weights of norms and scales of layers.
    if len(shape) == 1:
        return 1.0, 0.1
    # The text projection is stored as [in, out], all other matrices as [out, in, ...].
    inputs = shape[0] if name.endswith("text_projection") else math.prod(shape[1:])
    return 0.0, 2 / math.sqrt(inputs)
