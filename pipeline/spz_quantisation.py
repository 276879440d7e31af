"""The quantisation of SPZ: Splats <-> the container's raw bytes, exactly as the reference library computes it.

The reference is the clang build of 404-Repo/spz, which fuses some multiplications and additions. Here a fused
step is a float64 multiplication (exact for two float32) and addition, rounded once more to float32. Every
other step is one float32 operation per kernel, so the CPU and CUDA give the same bytes.
"""

from __future__ import annotations

import functools
import math
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats import SH_COEFFICIENTS, Splats

MAGIC = 0x5053474E
HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, gaussians, SH degree, fractional bits of a position, flags, reserved."""
FRACTIONAL_BITS = 12
MAX_FRACTIONAL_BITS = 24
MAX_GAUSSIANS = 10_000_000
"""The reference writes up to 10,485,760 and reads no more than this."""

# The largest float32 below one half: adding it and truncating rounds half away from zero, for all magnitudes.
_HALF = 0.5 - 2.0**-25
_INT32_LIMIT = 2.0**31
