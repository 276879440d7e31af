"""Rows that are inputs of linear layers: in half precision, or in 8-bit floats with a scale for each row."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

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


@triton.jit
def store_fp8(x, values_ptr, scales_ptr, row, channels, columns):
    """Store a row in 8 bits, with the scale that maps its largest entry to the largest 8-bit number."""
    scale = tl.maximum(tl.max(tl.abs(x)), 1e-12) / 448.0
    tl.store(scales_ptr + row, scale)
    tl.store(values_ptr + row * channels + columns, (x / scale).to(tl.float8e4nv), columns < channels)
