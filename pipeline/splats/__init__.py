"""Gaussian splats as plain arrays: statistics, the validator's checks, and the file formats PLY and SPZ."""

from pipeline.splats import ply, spz
from pipeline.splats.defects import count_non_finite, count_zero_rotations, drop_invalid
from pipeline.splats.splats import SH_COEFFICIENTS, Splats, flip_up_axis, normalise
from pipeline.splats.statistics import Statistics, compute_statistics
from pipeline.splats.validation import invalid_reason

__all__ = [
    "SH_COEFFICIENTS", "Splats", "Statistics", "compute_statistics", "count_non_finite", "count_zero_rotations",
    "drop_invalid", "flip_up_axis", "invalid_reason", "normalise", "ply", "spz",
]  # fmt: skip
