"""Linear layers in half precision, or in 8-bit floats with a scale for each row and for each output."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from pipeline.fused import products
from pipeline.fused.activations import FP8_MAX, Activations, store_fp8
from pipeline.fused.norms import head_norm
from pipeline.trellis.attention import CrossAttention, SelfAttention


class FusedLinear:
    """A linear layer that shares the parameters of an nn.Linear and, for fp8, has its own 8-bit weights."""

    def __init__(self, layer: nn.Linear, *, fp8: bool) -> None:
        """Quantise the layer's weights if `fp8`."""
        self._layer = layer
        self._has_epilogues = products.fits(layer)
        if fp8:
            weight = layer.weight.detach().float()
            scales = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / FP8_MAX
            self._scales = scales.T.contiguous()
            self._weight = (weight / scales).to(torch.float8_e4m3fn).T
            # Products with row scales have bfloat16 outputs only.
            self._bias = layer.bias.detach().bfloat16()

    def __call__(self, x: Activations) -> Tensor:
        """Apply the layer to x [R, in]: [R, out], in bfloat16 if x is 8-bit, which requires `fp8`."""
        if x.scales is None:
            return F.linear(x.values, self._layer.weight, self._layer.bias)
        return torch._scaled_mm(
            x.values, self._weight, scale_a=x.scales, scale_b=self._scales, bias=self._bias, out_dtype=torch.bfloat16
        )

    def normed_heads(self, x: Activations, gamma: Tensor | None) -> Tensor:
        """Apply the layer to x [R, in], then the root-mean-square norm to each head of the first parts of each row.

        Returns [R, parts * heads * head_dim]; gamma is [P, heads, head_dim] float32, P <= parts, or None for no norm.
        """
        if gamma is None:
            return self(x)
        if x.scales is None and self._has_epilogues and products.fits_heads(gamma):
            return products.product_with_head_norm(x.values, self._layer, gamma)
        out = self(x)
        head_norm(out, gamma)
        return out

    def add_to(self, residual: Tensor, x: Activations, gate: Tensor | None = None) -> Tensor | None:
        """Add gate * layer(x) to residual [R, out] in place, if that saves a pass over memory, and return None.

        Otherwise return layer(x), for the caller to add in the next pass over the residual.
        """
        if x.scales is None and self._has_epilogues:
            products.add_product(residual, x.values, self._layer, gate)
            return None
        return self(x)

    def apply_with_gelu(self, x: Activations) -> Activations:
        """Apply the layer, then GELU (the tanh approximation); the result is in the precision of x."""
        if x.scales is None:
            # cuBLAS does both in one kernel.
            bias, weight = self._layer.bias, self._layer.weight
            return Activations(torch._addmm_activation(bias, x.values, weight.t(), use_gelu=True))
        return _gelu_fp8(self(x))


def head_gammas(attention: SelfAttention | CrossAttention, parts: str) -> Tensor | None:
    """Return the norms' gammas of parts of "qk" [parts, heads, dim] float32, or None if there are no norms."""
    if not attention.qk_rms_norm:
        return None
    return torch.stack([getattr(attention, f"{part}_rms_norm").gamma.detach() for part in parts])


@triton.jit
def _gelu_fp8_kernel(x_ptr, values_ptr, scales_ptr, channels, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * channels + columns, columns < channels, 0.0).to(tl.float32)
    # 0.5 * (1 + tanh(u)) is the logistic function of 2u.
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    store_fp8(x * tl.sigmoid(2.0 * u), values_ptr, scales_ptr, row, channels, columns)


def _gelu_fp8(x: Tensor) -> Activations:
    out = Activations.empty_like(x, fp8=True)
    block = triton.next_power_of_2(x.shape[1])
    _gelu_fp8_kernel[(len(x),)](x, out.values, out.scales, x.shape[1], BLOCK=block, num_warps=8)
    return out
