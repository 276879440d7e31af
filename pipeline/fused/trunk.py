"""The modulated blocks of a flow model, for one sample under one or several contexts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.fused.norms import add_norm, head_norm
from pipeline.fused.products import Product, Rows
from pipeline.trellis.attention import CrossAttention, SelfAttention
from pipeline.trellis.blocks import ModulatedBlock

# (q [B, L, heads, dim], k and v [B, S, heads, dim]) -> [B, L, heads, dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class CFGBatch:
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


class TransformerBlocks:
    """Runs the blocks of a flow model, whose parameters it shares."""

    def __init__(self, blocks: nn.ModuleList, *, fp8: bool = False) -> None:
        """fp8: the products that take normed rows, and those of the MLP, with 8-bit floats."""
        self.blocks = [cast(ModulatedBlock, block) for block in blocks]
        self._fp8 = fp8
        self._products = [_Products.of(block, fp8=fp8) for block in self.blocks]
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

    def __call__(self, h: Tensor, modulation: Tensor, passes: CFGBatch, attend: Attend, rows: int) -> Tensor:
        """h [L, C] contiguous, the same for all passes; modulation [blocks, 6, C] -> [passes * L, C].

        Only the first `rows` of h are there to be attended to. h is overwritten.
        """
        length = len(h)
        real = passes.real * length
        x = h
        y: Tensor | None = None
        gate: Tensor | None = None
        normed = Rows.like(x, fp8=self._fp8)
        for index, (block, products) in enumerate(zip(self.blocks, self._products, strict=True)):
            shift, scale, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation[index]
            add_norm(x, y=y, gate=gate, modulation=(scale, shift), out=normed)
            y = self._self_attention(index, normed, length, attend, rows)
            if index == 0:
                # Contexts enter only now: up to here, all passes are the same.
                x, y = x.repeat(passes.count, 1), y.repeat(passes.count, 1)
                normed = Rows.like(x, fp8=self._fp8)
            if real:
                norm = block.norm2
                add_norm(
                    x[:real],
                    y=y[:real],
                    gate=gate_attention,
                    affine=(norm.weight, norm.bias),
                    out=normed.part(0, real),
                )
                crossed = self._cross_attention(index, normed.part(0, real), passes.keys_values[index], attend)
                add_norm(x[:real], y=crossed, modulation=(scale_mlp, shift_mlp), out=normed.part(0, real))
            if passes.zero:
                add_norm(
                    x[real:],
                    y=y[real:],
                    gate=gate_attention,
                    constant=self._zero_contexts[index],
                    modulation=(scale_mlp, shift_mlp),
                    out=normed.part(real),
                )
            y, gate = products.mlp_out(products.mlp_in.gelu(normed)), gate_mlp
        assert y is not None and gate is not None
        return torch.addcmul(x, y.to(x.dtype), gate)

    def _self_attention(self, index: int, x: Rows, length: int, attend: Attend, rows: int) -> Tensor:
        attention, gamma = self.blocks[index].self_attn, self._self_gammas[index]
        qkv = self._products[index].qkv(x)
        if gamma is not None:
            head_norm(qkv, gamma)
        q, k, v = qkv.view(-1, length, 3, attention.heads, self.channels // attention.heads).unbind(2)
        attended = attend(q, k[:, :rows], v[:, :rows]).reshape(-1, self.channels)
        out: Tensor = attention.to_out(attended.to(attention.to_out.weight.dtype))
        return out

    def _cross_attention(self, index: int, x: Rows, keys_values: Tensor, attend: Attend) -> Tensor:
        attention, gamma = self.blocks[index].cross_attn, self._query_gammas[index]
        q = self._products[index].q(x)
        if gamma is not None:
            head_norm(q, gamma)
        k, v = keys_values.unbind(2)
        q = q.view(len(keys_values), -1, *k.shape[2:]).to(k.dtype)
        out: Tensor = attention.to_out(attend(q, k, v).reshape(-1, self.channels))
        return out


@dataclass(frozen=True, eq=False)
class _Products:
    """The linear layers of a block that take normed rows, and both of the MLP."""

    qkv: Product
    q: Product
    mlp_in: Product
    mlp_out: Product

    @staticmethod
    def of(block: ModulatedBlock, *, fp8: bool) -> _Products:
        mlp_in, mlp_out = cast(nn.Linear, block.mlp.mlp[0]), cast(nn.Linear, block.mlp.mlp[2])
        layers = (block.self_attn.to_qkv, block.cross_attn.to_q, mlp_in, mlp_out)
        return _Products(*(Product(layer, fp8=fp8) for layer in layers))


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
