"""Layers shared by the TRELLIS networks; attribute names are the parameter names of the public checkpoints."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_NORM_EPS = 1e-6
FINAL_NORM_EPS = 1e-5
TIMESTEP_FREQUENCIES = 128


def timestep_embedding(t: Tensor) -> Tensor:
    """Sinusoidal embedding of time: t [B], already times 1000 -> [B, 256] float32, cosines first."""
    indices = torch.arange(TIMESTEP_FREQUENCIES, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10000) * indices / TIMESTEP_FREQUENCIES)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_embedding(positions: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of integer voxel indices: positions [N, 3] -> [N, channels] float32.

    Each axis takes channels // 6 sines, then as many cosines; what is left over is zero.
    """
    count = channels // 6
    exponents = torch.arange(count, dtype=torch.float32, device=positions.device) / count
    frequencies = 1.0 / (10000**exponents)
    angles = positions.float()[:, :, None] * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(embedding, (0, channels - embedding.shape[1]))


def layer_norm(x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
    """Layer norm over the last axis, computed in float32 and returned in x's dtype; without affine if no `norm`."""
    if norm is None:
        return F.layer_norm(x.float(), x.shape[-1:], eps=BLOCK_NORM_EPS).to(x.dtype)
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def cast_matmul_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert all weights below `module` but those of norms, which keep float32 as upstream's half precision does."""
    for child in module.modules():
        if not isinstance(child, (nn.LayerNorm, MultiHeadRMSNorm)):
            for parameter in child.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class TimestepEmbedder(nn.Module):
    """Time [B] (times 1000) -> [B, channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIMESTEP_FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, channels] float32."""
        embedding: Tensor = self.mlp(timestep_embedding(t))
        return embedding


class MultiHeadRMSNorm(nn.Module):
    """Root-mean-square norm per head: x / ||x|| * sqrt(head_dim) * gamma, in float32."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.scale = math.sqrt(head_dim)
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., heads, head_dim] -> same shape and dtype."""
        return (F.normalize(x.float(), dim=-1) * self.gamma * self.scale).to(x.dtype)


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels] -> same shape."""
        y: Tensor = self.mlp(x)
        return y
