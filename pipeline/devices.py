"""The one place that decides on which device and in which precision the networks run, and can say why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.errors import PipelineError

Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Compute:
    """Where and how the networks run; `reason` is for the log."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(device: str = "auto", precision: Precision = "auto") -> Compute:
    """Resolve names from the settings: device "auto", "cpu", "cuda" or "cuda:N".

    Raises PipelineError if the device is unknown or not there.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        chosen, why = ("cuda", "a CUDA device is there") if cuda else ("cpu", "no CUDA device is there")
    else:
        chosen, why = device, "the settings ask for it"
    try:
        resolved = torch.device(chosen)
    except RuntimeError:
        raise PipelineError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise PipelineError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (not cuda or (resolved.index or 0) >= torch.cuda.device_count()):
        raise PipelineError(
            f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; check nvidia-smi, or set device: cpu"
        )
    if precision == "auto":
        # float16 blocks are what upstream runs and was released in; CPUs are slow and inexact in it.
        dtype = torch.float16 if resolved.type == "cuda" else torch.float32
    else:
        dtype = getattr(torch, precision)
    return Compute(resolved, dtype, f"{chosen} since {why}, {str(dtype).removeprefix('torch.')} blocks")
