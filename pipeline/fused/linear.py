"""Linear layers in half precision, or in 8-bit floats with a scale for each row and for each output."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

# The largest finite number of float8_e4m3fn.
FP8_MAX = 448.0


@dataclass(frozen=True, eq=False)
class Activations:
    """Inputs of a linear layer: values [R, C] in half precision, or float8_e4m3fn with scales [R, 1] float32."""

    values: Tensor
    scales: Tensor | None = None

    @staticmethod
    def empty_like(x: Tensor, *, fp8: bool) -> "Activations":
        """Return uninitialised activations of x's shape."""
        if not fp8:
            return Activations(torch.empty_like(x))
        return Activations(torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty(len(x), 1, dtype=torch.float32))

    def rows(self, start: int, stop: int | None = None) -> "Activations":
        """Return a view of the rows from start up to stop."""
        scales = None if self.scales is None else self.scales[start:stop]
        return Activations(self.values[start:stop], scales)


class FusedLinear:
    """A linear layer that shares the parameters of an nn.Linear and, for fp8, has its own 8-bit weights."""

    def __init__(self, layer: nn.Linear, *, fp8: bool) -> None:
        """Quantise the layer's weights if `fp8`."""
        self._layer = layer
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

    def apply_with_gelu(self, x: Activations) -> Activations:
        """Apply the layer, then GELU (the tanh approximation); the result is in the precision of x."""
        if x.scales is None:
            # cuBLAS does both in one kernel.
            bias, weight = self._layer.bias, self._layer.weight
            return Activations(torch._addmm_activation(bias, x.values, weight.t(), use_gelu=True))
        return _gelu_fp8(self(x))


@triton.jit
def store_fp8(x, values_ptr, scales_ptr, row, channels, columns):
    """Store a row in 8 bits, with the scale that maps its largest entry to the largest 8-bit number."""
    scale = tl.maximum(tl.max(tl.abs(x)), 1e-12) / 448.0
    tl.store(scales_ptr + row, scale)
    tl.store(values_ptr + row * channels + columns, (x / scale).to(tl.float8e4nv), columns < channels)


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
