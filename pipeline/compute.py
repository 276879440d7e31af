"""The one place that decides where, in which precision and with which kernels the networks run, and can say why."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch

from pipeline.errors import PipelineError

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Kernels = Literal["auto", "plain", "fused"]
# Triton's matrix instructions in half precision need Ampere or newer.
_FUSED_CAPABILITY = (8, 0)
# Products with a scale for each row came with Hopper.
_FP8_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how the networks run; `reason` is for the log."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    fused: bool = False
    fp8: bool = False


def choose_compute(
    device: str = "auto", precision: Precision = "auto", kernels: Kernels = "auto", *, fp8: bool = False
) -> ComputeConfig:
    """Resolve names from the settings: device "auto", "cpu", "cuda" or "cuda:N"; fp8: products of 8-bit floats.

    Raises PipelineError if the device is unknown or not there, or if the fused kernels or fp8 cannot run on it.
    """
    resolved, why = _device(device)
    if precision == "auto":
        # float16 blocks are what upstream runs and was released in; CPUs are slow and inexact in it.
        dtype = torch.float16 if resolved.type == "cuda" else torch.float32
    else:
        dtype = getattr(torch, precision)
    obstacle = "the settings ask for it" if kernels == "plain" else _obstacle(resolved, dtype)
    if kernels == "fused" and obstacle is not None:
        raise PipelineError(f"kernels: fused cannot be used, since {obstacle}; set kernels: auto")
    if fp8 and (obstacle is not None or torch.cuda.get_device_capability(resolved) < _FP8_CAPABILITY):
        raise PipelineError(
            "acceleration.fp8 needs fused kernels and a GPU of the Hopper generation or newer "
            f"({obstacle or 'this one is older'}); leave it out of the phase"
        )
    ways = "fused kernels" if obstacle is None else f"plain kernels since {obstacle}"
    if fp8:
        ways += " with 8-bit products"
    reason = f"{resolved} since {why}, {str(dtype).removeprefix('torch.')} blocks, {ways}"
    return ComputeConfig(resolved, dtype, reason, fused=obstacle is None, fp8=fp8)


def _device(name: str) -> tuple[torch.device, str]:
    cuda = torch.cuda.is_available()
    if name == "auto":
        chosen, why = ("cuda", "a CUDA device is there") if cuda else ("cpu", "no CUDA device is there")
    else:
        chosen, why = name, "the settings ask for it"
    try:
        resolved = torch.device(chosen)
    except RuntimeError:
        raise PipelineError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise PipelineError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (not cuda or (resolved.index or 0) >= torch.cuda.device_count()):
        raise PipelineError(
            f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; check nvidia-smi, or set device: cpu"
        )
    return resolved, why


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the fused kernels cannot run; None if they can."""
    if device.type != "cuda":
        return "it is no GPU"
    if dtype == torch.float32:
        return "the precision is float32"
    if torch.cuda.get_device_capability(device) < _FUSED_CAPABILITY:
        return "the GPU is older than Ampere"
    if find_spec("triton") is None:
        return "the package triton is missing"
    return None
