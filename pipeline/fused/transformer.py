"""The modulated blocks of a flow model, for one sample under one or several contexts at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.fused.linear import Activations, FusedLinear
from pipeline.fused.norms import add_norm, head_norm
from pipeline.trellis.attention import CrossAttention, SelfAttention
from pipeline.trellis.blocks import ModulatedBlock

# (q [B, L, heads, dim], k and v [B, S, heads, dim]) -> [B, L, heads, dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class CFGBatch:
    """The contexts that one call computes velocities for, as the items of a batch.

    Contexts of tokens come first, then contexts whose tokens are all zero, for which cross-attention is a constant.

    keys_values: for each block [token_contexts, S, 2, heads, dim], the keys and values of the contexts of tokens.
    """

    keys_values: Sequence[Tensor]
    token_contexts: int
    zero_contexts: int

    @property
    def size(self) -> int:
        """Number of contexts."""
        return self.token_contexts + self.zero_contexts


class TransformerBlocks:
    """The transformer blocks of a flow model, which share its parameters."""

    def __init__(self, blocks: nn.ModuleList, *, fp8: bool = False) -> None:
        """Wrap modulated blocks; fp8: compute products of normed rows, and those of the MLP, in 8 bits."""
        self._fp8 = fp8
        self._blocks = [_FusedBlock(cast(ModulatedBlock, block), fp8=fp8) for block in blocks]
        self.channels = self._blocks[0].channels

    def modulations(self, time_embeddings: Tensor) -> Tensor:
        """Compute shift, scale and gate of the attention, then of the MLP: [T, C] -> [T, blocks, 6, C]."""
        chunks = [block.plain.adaLN_modulation(time_embeddings) for block in self._blocks]
        return torch.stack(chunks, dim=1).unflatten(-1, (6, -1))

    def keys_values(self, context: Tensor) -> list[Tensor]:
        """Compute keys and values of tokens [1, S, context_channels]: for each block [1, S, 2, heads, dim]."""
        return [block.keys_values(context) for block in self._blocks]

    def __call__(self, h: Tensor, modulation: Tensor, batch: CFGBatch, attend: Attend, valid_rows: int) -> Tensor:
        """Apply the blocks to h [L, C], the same for all contexts, with modulation [blocks, 6, C]: [batch * L, C].

        Only the first `valid_rows` rows of h are attended to. h is contiguous and overwritten.
        """
        x, length = h, len(h)
        token_rows = batch.token_contexts * length
        y: Tensor | None = None
        gate: Tensor | None = None
        normed = Activations.empty_like(x, fp8=self._fp8)
        for index, block in enumerate(self._blocks):
            shift, scale, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation[index]
            add_norm(x, y=y, gate=gate, modulation=(scale, shift), out=normed)
            y = block.self_attention(normed, length, attend, valid_rows)
            if index == 0:
                # Contexts enter only now: up to here, one item stands for the whole batch.
                x, y = x.repeat(batch.size, 1), y.repeat(batch.size, 1)
                normed = Activations.empty_like(x, fp8=self._fp8)
            mlp = scale_mlp, shift_mlp
            if token_rows:
                affine, out = (block.plain.norm2.weight, block.plain.norm2.bias), normed.rows(0, token_rows)
                add_norm(x[:token_rows], y=y[:token_rows], gate=gate_attention, affine=affine, out=out)
                crossed = block.cross_attention(out, batch.keys_values[index], attend)
                add_norm(x[:token_rows], y=crossed, modulation=mlp, out=out)
            if batch.zero_contexts:
                rest, out, constant = y[token_rows:], normed.rows(token_rows), block.zero_context_output
                add_norm(x[token_rows:], y=rest, gate=gate_attention, constant=constant, modulation=mlp, out=out)
            y, gate = block.mlp_out(block.mlp_in.apply_with_gelu(normed)), gate_mlp
        assert y is not None and gate is not None, "a flow has at least one block"
        return torch.addcmul(x, y.to(x.dtype), gate)


class _FusedBlock:
    """A modulated block, its linear layers that take normed rows, both of its MLP, and constants of its parameters."""

    def __init__(self, block: ModulatedBlock, *, fp8: bool) -> None:
        self.plain = block
        self.channels: int = block.norm2.normalized_shape[0]
        mlp_in, mlp_out = cast(nn.Linear, block.mlp.mlp[0]), cast(nn.Linear, block.mlp.mlp[2])
        layers = (block.self_attn.to_qkv, block.cross_attn.to_q, mlp_in, mlp_out)
        self._qkv, self._q, self.mlp_in, self.mlp_out = (FusedLinear(layer, fp8=fp8) for layer in layers)
        self._self_gamma = _gammas(block.self_attn, "qk")
        self._query_gamma, self._key_gamma = _gammas(block.cross_attn, "q"), _gammas(block.cross_attn, "k")
        # Cross-attention to zeros is constant: all values are the bias, whatever the weights.
        value = block.cross_attn.to_kv.bias.detach()[block.cross_attn.to_q.out_features :]
        self.zero_context_output: Tensor = block.cross_attn.to_out(value)

    def keys_values(self, context: Tensor) -> Tensor:
        keys_values = self.plain.cross_attn.to_kv(context)
        if self._key_gamma is not None:
            head_norm(keys_values.view(-1, keys_values.shape[-1]), self._key_gamma)
        return keys_values.unflatten(-1, (2, self.plain.cross_attn.heads, -1))

    def self_attention(self, x: Activations, length: int, attend: Attend, valid_rows: int) -> Tensor:
        attention = self.plain.self_attn
        qkv = self._qkv(x)
        if self._self_gamma is not None:
            head_norm(qkv, self._self_gamma)
        q, k, v = qkv.view(-1, length, 3, attention.heads, self.channels // attention.heads).unbind(2)
        attended = attend(q, k[:, :valid_rows], v[:, :valid_rows]).reshape(-1, self.channels)
        return attention.to_out(attended.to(attention.to_out.weight.dtype))

    def cross_attention(self, x: Activations, keys_values: Tensor, attend: Attend) -> Tensor:
        q = self._q(x)
        if self._query_gamma is not None:
            head_norm(q, self._query_gamma)
        k, v = keys_values.unbind(2)
        q = q.view(len(keys_values), -1, *k.shape[2:]).to(k.dtype)
        return self.plain.cross_attn.to_out(attend(q, k, v).reshape(-1, self.channels))


def _gammas(attention: SelfAttention | CrossAttention, parts: str) -> Tensor | None:
    """Return [parts, heads, dim] float32, or None if the attention does not normalise queries and keys."""
    if not attention.qk_rms_norm:
        return None
    return torch.stack([getattr(attention, f"{part}_rms_norm").gamma.detach() for part in parts])
