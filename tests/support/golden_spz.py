"""Clouds and containers with the bytes that the reference implementation of SPZ made of them."""

import json
from functools import cache
from typing import Any

import numpy as np
import torch

from pipeline import ply
from pipeline.splats.splats import Splats
from tests.support.paths import DATA

GOLDEN = DATA / "spz"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CASES: dict[str, dict[str, Any]] = MANIFEST["cases"]
CONTAINERS: dict[str, dict[str, Any]] = MANIFEST["spz_decode_cases"]
BASELINE = bytes.fromhex(CONTAINERS["baseline"]["spz_hex"])


def regenerate(seed: int, count: int) -> Splats:
    """The golden cloud of a seed: 24 random bits a value, columns drawn one after the other."""
    bits = np.random.PCG64(seed)

    def column(low: float, high: float) -> np.ndarray:
        unit = (bits.random_raw(count) >> np.uint64(40)).astype(np.float64) * 2.0**-24
        return (low + unit * (high - low)).astype(np.float32)

    def columns(width: int, low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(np.stack([column(low, high) for _ in range(width)], axis=1))

    # In the order of the PLY columns; normals are zeros and draw nothing.
    means, f_dc = columns(3, -0.5, 0.5), columns(3, -1.7, 1.7)
    opacity_logits, log_scales = columns(1, -9.3, 9.0)[:, 0], columns(3, -8.0, -3.0)
    return Splats(means, columns(4, -1.6, 1.6), log_scales, opacity_logits, f_dc)


@cache
def golden(name: str) -> Splats:
    case = CASES[name]
    if case["ply"]["file"]:
        return ply.from_bytes((GOLDEN / case["ply"]["file"]).read_bytes())
    return regenerate(case["seed"], case["count"])
