"""Layers that DINOv2 and CLIP share; attribute names are the parameter names of the published files."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "quick_gelu"]


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int, *, is_causal: bool = False) -> Tensor:
    """Mix values by attention of several heads, each scaled by its channels**-0.5: three [B, T, C] -> [B, T, C].

    is_causal: a token sees itself and those before it alone.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2).flatten(2)


def embedding_table(count: int, channels: int) -> nn.Embedding:
    """Build a table of vectors that are not yet set.

    The constructor of nn.Embedding draws them, for which PyTorch imports its compiler on the meta device: seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(count, channels), freeze=False)


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    The activation is the exact GELU, x * Φ(x), or CLIP's approximation x * sigmoid(1.702 x) (Hendrycks and Gimpel,
    arXiv:1606.08415).
    """

    def __init__(self, channels: int, hidden: int, activation: Activation) -> None:
        """Build the layers for [..., channels], with `hidden` channels between them."""
        super().__init__()
        self._activation = activation
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        x = self.fc1(x)
        return self.fc2(F.gelu(x) if self._activation == "gelu" else x * torch.sigmoid(1.702 * x))
