"""Layers that the TRELLIS networks share; attribute names are the parameter names of the public checkpoints."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_NORM_EPS = 1e-6
FINAL_NORM_EPS = 1e-5
TIMESTEP_FREQUENCIES = 128


def timestep_embedding(t: Tensor) -> Tensor:
    """Embed times t [B], already multiplied by 1000, in sinusoids: [B, 256] float32, cosines first."""
    indices = torch.arange(TIMESTEP_FREQUENCIES, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10000) * indices / TIMESTEP_FREQUENCIES)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_embedding(positions: Tensor, channels: int) -> Tensor:
    """Embed integer voxel indices [N, 3] in sinusoids: [N, channels] float32.

    Each axis has channels // 6 sines, then as many cosines; the remaining channels are zero.
    """
    count = channels // 6
    exponents = torch.arange(count, dtype=torch.float32, device=positions.device) / count
    frequencies = 1.0 / (10000**exponents)
    angles = positions.float()[:, :, None] * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(embedding, (0, channels - embedding.shape[1]))


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Fold patches into channels (c, px, py, pz), row-major: [B, C, X, Y, Z] -> [B, C * p^3, X/p, Y/p, Z/p]."""
    p = patch_size
    x = x.unflatten(4, (-1, p)).unflatten(3, (-1, p)).unflatten(2, (-1, p))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unpatchify(x: Tensor, patch_size: int) -> Tensor:
    """Undo `patchify`, also known as a pixel shuffle: [B, C * p^3, X, Y, Z] -> [B, C, X*p, Y*p, Z*p]."""
    p = patch_size
    x = x.unflatten(1, (-1, p, p, p)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def layer_norm(x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
    """Apply layer norm over the last axis in float32 and return x's dtype; without `norm`, there is no affine part."""
    if norm is None:
        return F.layer_norm(x.float(), x.shape[-1:], eps=BLOCK_NORM_EPS).to(x.dtype)
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def cast_matmul_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast all weights below `module` but those of norms, which stay float32, as in upstream's half precision."""
    for child in module.modules():
        if not isinstance(child, (nn.LayerNorm, MultiHeadRMSNorm)):
            for parameter in child.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class TimestepEmbedder(nn.Module):
    """An embedding of times, sinusoidal and then by an MLP."""

    def __init__(self, channels: int) -> None:
        """Create the layers of the MLP."""
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIMESTEP_FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed times t [B], already multiplied by 1000: [B, channels] float32."""
        return self.mlp(timestep_embedding(t))


class MultiHeadRMSNorm(nn.Module):
    """A root-mean-square norm per head: x / ||x|| * sqrt(head_dim) * gamma, in float32."""

    def __init__(self, heads: int, head_dim: int) -> None:
        """Start with a gamma of ones."""
        super().__init__()
        self.scale = math.sqrt(head_dim)
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., heads, head_dim]; returns the same shape and dtype."""
        return (F.normalize(x.float(), dim=-1) * self.gamma * self.scale).to(x.dtype)


class FeedForward(nn.Module):
    """A linear layer, GELU (tanh approximation) and another linear layer."""

    def __init__(self, channels: int, mlp_ratio: float) -> None:
        """Create the layers, with mlp_ratio times as many hidden channels."""
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers to x [..., channels]; returns the same shape."""
        return self.mlp(x)
