"""Multi-head attention within each of several packed sequences."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.layers import MultiHeadRMSNorm
from pipeline.trellis.segments import Segments


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute scaled dot-product attention of q [B, L, heads, dim] to k and v [B, S, heads, dim].

    mask: [B, 1, 1, S] bool, the keys that exist; None if all do. Returns [B, L, heads, dim].
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class SelfAttention(nn.Module):
    """A self-attention layer; the rows of `to_qkv` are (q, k, v) x heads x head_dim."""

    def __init__(self, channels: int, heads: int, *, qk_rms_norm: bool) -> None:
        """Create the layers; qk_rms_norm adds norms of queries and keys."""
        super().__init__()
        self.heads = heads
        self.qk_rms_norm = qk_rms_norm
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(heads, channels // heads)
            self.k_rms_norm = MultiHeadRMSNorm(heads, channels // heads)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """Let each row of x [N, channels] attend to the rows of its own sequence; returns the shape of x."""
        q, k, v = segments.pad(self.to_qkv(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return self.to_out(segments.unpad(attend(q, k, v, segments.mask)).flatten(-2))


class CrossAttention(nn.Module):
    """A cross-attention layer from rows to a context; the rows of `to_kv` are (k, v) x heads x head_dim."""

    def __init__(self, channels: int, context_channels: int, heads: int, *, qk_rms_norm: bool) -> None:
        """Create the layers; qk_rms_norm adds norms of queries and keys."""
        super().__init__()
        self.heads = heads
        self.qk_rms_norm = qk_rms_norm
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(heads, channels // heads)
            self.k_rms_norm = MultiHeadRMSNorm(heads, channels // heads)

    def forward(self, x: Tensor, segments: Segments, context: Tensor) -> Tensor:
        """Let the rows of sequence b of x [N, channels] attend to context[b] of [B, S, context_channels]."""
        q = segments.pad(self.to_q(x)).unflatten(-1, (self.heads, -1))
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return self.to_out(segments.unpad(attend(q, k, v)).flatten(-2))
