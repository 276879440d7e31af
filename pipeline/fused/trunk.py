"""The modulated blocks of a flow model, for one sample under one or several contexts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.fused.norms import add_norm, head_norm
from pipeline.trellis.attention import CrossAttention, SelfAttention
from pipeline.trellis.blocks import ModulatedBlock
from pipeline.trellis.layers import FeedForward

# (q [B, L, heads, dim], k and v [B, S, heads, dim]) -> [B, L, heads, dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Passes:
    """The contexts that a velocity is wanted for: those of tokens first, then those of zeros.

    keys_values: for each block [real, S, 2, heads, dim], the keys and values of the contexts of tokens.
    """

    keys_values: Sequence[Tensor]
    real: int
    zero: int

    @property
    def count(self) -> int:
        """All passes."""
        return self.real + self.zero


class Trunk:
    """Runs the blocks of a flow model, whose parameters it shares."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.blocks = [cast(ModulatedBlock, block) for block in blocks]
        self.channels: int = self.blocks[0].norm2.normalized_shape[0]
        self._self_gammas = [_gammas(block.self_attn, "qk") for block in self.blocks]
        self._query_gammas = [_gammas(block.cross_attn, "q") for block in self.blocks]
        self._key_gammas = [_gammas(block.cross_attn, "k") for block in self.blocks]
        self._zero_contexts = [_of_zeros(block.cross_attn) for block in self.blocks]

    def modulations(self, times: Tensor) -> Tensor:
        """Embedded times [T, C] -> [T, blocks, 6, C]: shift, scale, gate of the attention, then of the MLP."""
        chunks = [block.adaLN_modulation(times) for block in self.blocks]
        modulations: Tensor = torch.stack(chunks, dim=1).unflatten(-1, (6, -1))
        return modulations

    def keys_values(self, context: Tensor) -> list[Tensor]:
        """Tokens [1, S, context_channels] -> for each block [1, S, 2, heads, dim]."""
        prepared = []
        for block, gamma in zip(self.blocks, self._key_gammas, strict=True):
            keys_values = block.cross_attn.to_kv(context)
            if gamma is not None:
                head_norm(keys_values.view(-1, keys_values.shape[-1]), gamma)
            prepared.append(keys_values.unflatten(-1, (2, block.cross_attn.heads, -1)))
        return prepared

    def __call__(self, h: Tensor, modulation: Tensor, passes: Passes, attend: Attend) -> Tensor:
        """h [L, C] contiguous, the same for all passes; modulation [blocks, 6, C] -> [passes * L, C].

        h is overwritten.
        """
        length = len(h)
        real = passes.real * length
        x = h
        y: Tensor | None = None
        gate: Tensor | None = None
        for index, block in enumerate(self.blocks):
            shift, scale, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation[index]
            normed = add_norm(x, y=y, gate=gate, modulation=(scale, shift))
            y = _self_attention(block.self_attn, self._self_gammas[index], normed, length, attend)
            if index == 0:
                # Contexts enter only now: up to here, all passes are the same.
                x, y = x.repeat(passes.count, 1), y.repeat(passes.count, 1)
                normed = torch.empty_like(x)
            if real:
                norm = block.norm2
                normed_real = add_norm(x[:real], y=y[:real], gate=gate_attention, affine=(norm.weight, norm.bias))
                crossed = _cross_attention(
                    block.cross_attn, self._query_gammas[index], normed_real, passes.keys_values[index], attend
                )
                add_norm(x[:real], y=crossed, modulation=(scale_mlp, shift_mlp), out=normed[:real])
            if passes.zero:
                add_norm(
                    x[real:],
                    y=y[real:],
                    gate=gate_attention,
                    constant=self._zero_contexts[index],
                    modulation=(scale_mlp, shift_mlp),
                    out=normed[real:],
                )
            y, gate = _feed_forward(block.mlp, normed), gate_mlp
        assert y is not None and gate is not None
        return torch.addcmul(x, y, gate)


def _gammas(attention: SelfAttention | CrossAttention, parts: str) -> Tensor | None:
    """[parts, heads, dim] float32, or None if the attention has no norms of queries and keys."""
    if not attention.qk_rms_norm:
        return None
    return torch.stack([getattr(attention, f"{part}_rms_norm").gamma.detach() for part in parts])


def _of_zeros(attention: CrossAttention) -> Tensor:
    """What cross-attention to tokens of zeros gives to every row: all values are the bias, whatever the weights."""
    value = attention.to_kv.bias.detach()[attention.to_q.out_features :]
    constant: Tensor = attention.to_out(value)
    return constant


def _self_attention(attention: SelfAttention, gamma: Tensor | None, x: Tensor, length: int, attend: Attend) -> Tensor:
    qkv = attention.to_qkv(x)
    if gamma is not None:
        head_norm(qkv, gamma)
    q, k, v = qkv.view(-1, length, 3, attention.heads, x.shape[1] // attention.heads).unbind(2)
    out: Tensor = attention.to_out(attend(q, k, v).reshape(x.shape))
    return out


def _cross_attention(
    attention: CrossAttention, gamma: Tensor | None, x: Tensor, keys_values: Tensor, attend: Attend
) -> Tensor:
    q = attention.to_q(x)
    if gamma is not None:
        head_norm(q, gamma)
    k, v = keys_values.unbind(2)
    q = q.view(len(keys_values), -1, *k.shape[2:])
    out: Tensor = attention.to_out(attend(q, k, v).reshape(x.shape))
    return out


def _feed_forward(mlp: FeedForward, x: Tensor) -> Tensor:
    first, second = cast(nn.Linear, mlp.mlp[0]), cast(nn.Linear, mlp.mlp[2])
    # The product, its bias and GELU (the tanh approximation) in one kernel of cuBLAS.
    hidden = torch._addmm_activation(first.bias, x, first.weight.t(), use_gelu=True)
    return F.linear(hidden, second.weight, second.bias)
