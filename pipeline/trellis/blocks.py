"""Transformer blocks over rows [N, channels] that belong to the sequences of a `Segments`."""

from torch import Tensor, nn

from pipeline.trellis.attention import CrossAttention, SelfAttention
from pipeline.trellis.layers import BLOCK_NORM_EPS, FeedForward, layer_norm, modulate
from pipeline.trellis.segments import Segments


class ModulatedBlock(nn.Module):
    """A block of the flow models: self-attention, cross-attention and MLP, modulated by time (adaLN).

    The chunks of the modulation are shift, scale, gate of the self-attention, then of the MLP.
    """

    def __init__(
        self, channels: int, context_channels: int, heads: int, mlp_ratio: float, *,
        qk_rms_norm: bool, qk_rms_norm_cross: bool,
    ) -> None:  # fmt: skip
        """Create the layers, named as in the public checkpoints."""
        super().__init__()
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_NORM_EPS)
        self.self_attn = SelfAttention(channels, heads, qk_rms_norm=qk_rms_norm)
        self.cross_attn = CrossAttention(channels, context_channels, heads, qk_rms_norm=qk_rms_norm_cross)
        self.mlp = FeedForward(channels, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))

    def forward(self, x: Tensor, segments: Segments, time: Tensor, context: Tensor) -> Tensor:
        """Apply the block to x [N, C] with time [B, C] and context [B, S, context_channels]; returns the shape of x."""
        modulation = segments.broadcast(self.adaLN_modulation(time))
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=-1)
        x = x + gate_msa * self.self_attn(modulate(layer_norm(x), shift_msa, scale_msa), segments)
        x = x + self.cross_attn(layer_norm(x, self.norm2), segments, context)
        return x + gate_mlp * self.mlp(modulate(layer_norm(x), shift_mlp, scale_mlp))


class PlainBlock(nn.Module):
    """A block of the gaussian decoder: self-attention inside windows, then MLP; both norms without affine."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, *, qk_rms_norm: bool) -> None:
        """Create the layers, named as in the public checkpoints."""
        super().__init__()
        self.attn = SelfAttention(channels, heads, qk_rms_norm=qk_rms_norm)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: Tensor, windows: Segments) -> Tensor:
        """Apply the block to x [N, C], whose rows attend to the rows of their window; returns the shape of x."""
        x = x + self.attn(layer_norm(x), windows)
        return x + self.mlp(layer_norm(x))
