"""The modulated blocks of a flow model, for one sample under one or several contexts at once."""

from __future__ import annotations

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
        self.blocks = [cast(ModulatedBlock, block) for block in blocks]
        self._fp8 = fp8
        self._linears = [_BlockLinears.of(block, fp8=fp8) for block in self.blocks]
        self.channels: int = self.blocks[0].norm2.normalized_shape[0]
        self._self_gammas = [_gammas(block.self_attn, "qk") for block in self.blocks]
        self._query_gammas = [_gammas(block.cross_attn, "q") for block in self.blocks]
        self._key_gammas = [_gammas(block.cross_attn, "k") for block in self.blocks]
        self._zero_context_outputs = [_zero_context_output(block.cross_attn) for block in self.blocks]

    def modulations(self, time_embeddings: Tensor) -> Tensor:
        """Compute shift, scale and gate of the attention, then of the MLP: [T, C] -> [T, blocks, 6, C]."""
        chunks = [block.adaLN_modulation(time_embeddings) for block in self.blocks]
        modulations: Tensor = torch.stack(chunks, dim=1).unflatten(-1, (6, -1))
        return modulations

    def keys_values(self, context: Tensor) -> list[Tensor]:
        """Compute keys and values of tokens [1, S, context_channels]: for each block [1, S, 2, heads, dim]."""
        prepared = []
        for block, gamma in zip(self.blocks, self._key_gammas, strict=True):
            keys_values = block.cross_attn.to_kv(context)
            if gamma is not None:
                head_norm(keys_values.view(-1, keys_values.shape[-1]), gamma)
            prepared.append(keys_values.unflatten(-1, (2, block.cross_attn.heads, -1)))
        return prepared

    def __call__(self, h: Tensor, modulation: Tensor, batch: CFGBatch, attend: Attend, valid_rows: int) -> Tensor:
        """Apply the blocks to h [L, C], the same for all contexts, with modulation [blocks, 6, C]: [batch * L, C].

        Only the first `valid_rows` rows of h are attended to. h is contiguous and overwritten.
        """
        length = len(h)
        token_rows = batch.token_contexts * length
        x = h
        y: Tensor | None = None
        gate: Tensor | None = None
        normed = Activations.empty_like(x, fp8=self._fp8)
        for index, (block, linears) in enumerate(zip(self.blocks, self._linears, strict=True)):
            shift, scale, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation[index]
            add_norm(x, y=y, gate=gate, modulation=(scale, shift), out=normed)
            y = self._self_attention(index, normed, length, attend, valid_rows)
            if index == 0:
                # Contexts enter only now: up to here, one item stands for the whole batch.
                x, y = x.repeat(batch.size, 1), y.repeat(batch.size, 1)
                normed = Activations.empty_like(x, fp8=self._fp8)
            if token_rows:
                norm = block.norm2
                add_norm(
                    x[:token_rows],
                    y=y[:token_rows],
                    gate=gate_attention,
                    affine=(norm.weight, norm.bias),
                    out=normed.rows(0, token_rows),
                )
                keys_values = batch.keys_values[index]
                crossed = self._cross_attention(index, normed.rows(0, token_rows), keys_values, attend)
                add_norm(x[:token_rows], y=crossed, modulation=(scale_mlp, shift_mlp), out=normed.rows(0, token_rows))
            if batch.zero_contexts:
                add_norm(
                    x[token_rows:],
                    y=y[token_rows:],
                    gate=gate_attention,
                    constant=self._zero_context_outputs[index],
                    modulation=(scale_mlp, shift_mlp),
                    out=normed.rows(token_rows),
                )
            y, gate = linears.mlp_out(linears.mlp_in.apply_with_gelu(normed)), gate_mlp
        assert y is not None and gate is not None, "a flow has at least one block"
        return torch.addcmul(x, y.to(x.dtype), gate)

    def _self_attention(self, index: int, x: Activations, length: int, attend: Attend, valid_rows: int) -> Tensor:
        attention, gamma = self.blocks[index].self_attn, self._self_gammas[index]
        qkv = self._linears[index].qkv(x)
        if gamma is not None:
            head_norm(qkv, gamma)
        q, k, v = qkv.view(-1, length, 3, attention.heads, self.channels // attention.heads).unbind(2)
        attended = attend(q, k[:, :valid_rows], v[:, :valid_rows]).reshape(-1, self.channels)
        out: Tensor = attention.to_out(attended.to(attention.to_out.weight.dtype))
        return out

    def _cross_attention(self, index: int, x: Activations, keys_values: Tensor, attend: Attend) -> Tensor:
        attention, gamma = self.blocks[index].cross_attn, self._query_gammas[index]
        q = self._linears[index].q(x)
        if gamma is not None:
            head_norm(q, gamma)
        k, v = keys_values.unbind(2)
        q = q.view(len(keys_values), -1, *k.shape[2:]).to(k.dtype)
        out: Tensor = attention.to_out(attend(q, k, v).reshape(-1, self.channels))
        return out


@dataclass(frozen=True, eq=False)
class _BlockLinears:
    """The linear layers of a block that take normed rows, and both of the MLP."""

    qkv: FusedLinear
    q: FusedLinear
    mlp_in: FusedLinear
    mlp_out: FusedLinear

    @staticmethod
    def of(block: ModulatedBlock, *, fp8: bool) -> _BlockLinears:
        mlp_in, mlp_out = cast(nn.Linear, block.mlp.mlp[0]), cast(nn.Linear, block.mlp.mlp[2])
        layers = (block.self_attn.to_qkv, block.cross_attn.to_q, mlp_in, mlp_out)
        return _BlockLinears(*(FusedLinear(layer, fp8=fp8) for layer in layers))


def _gammas(attention: SelfAttention | CrossAttention, parts: str) -> Tensor | None:
    """Return [parts, heads, dim] float32, or None if the attention does not normalise queries and keys."""
    if not attention.qk_rms_norm:
        return None
    return torch.stack([getattr(attention, f"{part}_rms_norm").gamma.detach() for part in parts])


def _zero_context_output(attention: CrossAttention) -> Tensor:
    """Return the constant output of cross-attention to zeros: all values are the bias, whatever the weights."""
    value = attention.to_kv.bias.detach()[attention.to_q.out_features :]
    constant: Tensor = attention.to_out(value)
    return constant
