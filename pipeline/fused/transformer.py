"""The modulated blocks of a flow model, for one sample under one or several contexts at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.fused.activations import Activations
from pipeline.fused.linear import FusedLinear, head_gammas
from pipeline.fused.norms import add_norm, head_norm
from pipeline.trellis.blocks import ModulatedBlock

# (q [B, L, heads, dim], k and v [B, S, heads, dim]) -> [B, L, heads, dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionKernels:
    """What computes the attention of rows to the rows of their sample, and to the tokens of a context."""

    to_rows: Attend
    to_context: Attend


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

    @property
    def tokens(self) -> int:
        """Number of tokens of each context of tokens; 0 without any."""
        return self.keys_values[0].shape[1] if self.token_contexts else 0


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

    def __call__(self, x: Tensor, modulation: Tensor, batch: CFGBatch, attention: AttentionKernels) -> None:
        """Replace x [batch * L, C], contiguous, by the result of the blocks for its first L rows, under each context.

        modulation is [blocks, 6, C].
        """
        length = len(x) // batch.size
        token_rows = batch.token_contexts * length
        # What is yet to be added to x, times its gate.
        y: Tensor | None = None
        gate: Tensor | None = None
        # Contexts enter after the first self-attention: up to there, one item stands for the whole batch.
        h = x[:length]
        normed = Activations.empty_like(h, fp8=self._fp8)
        for index, block in enumerate(self._blocks):
            shift, scale, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation[index]
            add_norm(h, y=y, gate=gate, modulation=(scale, shift), out=normed)
            y = block.add_self_attention(h, normed, gate_attention, length, attention.to_rows)
            if index == 0 and batch.size > 1:
                x.view(batch.size, length, -1)[1:] = h
                h, y = x, None if y is None else y.repeat(batch.size, 1)
                normed = Activations.empty_like(h, fp8=self._fp8)
            mlp = scale_mlp, shift_mlp
            if token_rows:
                rows, out, rest = x[:token_rows], normed.rows(0, token_rows), None if y is None else y[:token_rows]
                add_norm(rows, y=rest, gate=gate_attention, affine=(block.norm.weight, block.norm.bias), out=out)
                crossed = block.add_cross_attention(rows, out, batch.keys_values[index], attention.to_context)
                add_norm(rows, y=crossed, modulation=mlp, out=out)
            if batch.zero_contexts:
                rows, out, rest = x[token_rows:], normed.rows(token_rows), None if y is None else y[token_rows:]
                constant = block.zero_context_output
                add_norm(rows, y=rest, gate=gate_attention, constant=constant, modulation=mlp, out=out)
            y, gate = block.mlp_out.add_to(x, block.mlp_in.apply_with_gelu(normed), gate_mlp), gate_mlp
        if y is not None:
            x.addcmul_(y.to(x.dtype), gate_mlp)


class _FusedBlock:
    """A modulated block, the linear layers that take normed or attended rows, and constants of its parameters."""

    def __init__(self, block: ModulatedBlock, *, fp8: bool) -> None:
        self.plain, self.norm = block, block.norm2
        self.channels: int = block.norm2.normalized_shape[0]
        mlp_in, mlp_out = cast(nn.Linear, block.mlp.mlp[0]), cast(nn.Linear, block.mlp.mlp[2])
        layers = (block.self_attn.to_qkv, block.cross_attn.to_q, mlp_in, mlp_out)
        self._qkv, self._q, self.mlp_in, self.mlp_out = (FusedLinear(layer, fp8=fp8) for layer in layers)
        outputs = (block.self_attn.to_out, block.cross_attn.to_out)
        self._self_out, self._cross_out = (FusedLinear(layer, fp8=False) for layer in outputs)
        self._self_gamma = head_gammas(block.self_attn, "qk")
        self._query_gamma, self._key_gamma = head_gammas(block.cross_attn, "q"), head_gammas(block.cross_attn, "k")
        # Cross-attention to zeros is constant: all values are the bias, whatever the weights.
        value = block.cross_attn.to_kv.bias.detach()[block.cross_attn.to_q.out_features :]
        self.zero_context_output: Tensor = block.cross_attn.to_out(value)

    def keys_values(self, context: Tensor) -> Tensor:
        keys_values = self.plain.cross_attn.to_kv(context)
        if self._key_gamma is not None:
            head_norm(keys_values.view(-1, keys_values.shape[-1]), self._key_gamma)
        return keys_values.unflatten(-1, (2, self.plain.cross_attn.heads, -1))

    def add_self_attention(
        self, residual: Tensor, x: Activations, gate: Tensor, length: int, attend: Attend
    ) -> Tensor | None:
        """Add the gated attention of normed rows x to the residual, or return what is yet to be added."""
        qkv = self._qkv.normed_heads(x, self._self_gamma)
        heads = self.plain.self_attn.heads
        q, k, v = qkv.view(-1, length, 3, heads, self.channels // heads).unbind(2)
        return self._self_out.add_to(residual, self._rows(attend(q, k, v), residual), gate)

    def add_cross_attention(
        self, residual: Tensor, x: Activations, keys_values: Tensor, attend: Attend
    ) -> Tensor | None:
        """Add the attention of normed rows x to a context to the residual, or return what is yet to be added."""
        q = self._q.normed_heads(x, self._query_gamma)
        k, v = keys_values.unbind(2)
        q = q.view(len(keys_values), -1, *k.shape[2:]).to(k.dtype)
        return self._cross_out.add_to(residual, self._rows(attend(q, k, v), residual))

    def _rows(self, attended: Tensor, residual: Tensor) -> Activations:
        return Activations(attended.reshape(-1, self.channels).to(residual.dtype))
