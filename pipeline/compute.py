"""The choice of device, precision and kernels for the networks, with its reason."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which
from typing import Literal

import torch

from pipeline.errors import PipelineError

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Kernels = Literal["auto", "plain", "fused"]
# The oldest GPUs that Triton supports, and whose matrix instructions the fused kernels need.
_TRITON_CAPABILITY = (8, 0)
# The rasteriser needs less than half of it.
_DRAWING_MEMORY = 2 * 1024**3
# 8-bit matrix products with a scale for each row need Hopper or newer.
_FP8_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class ComputeConfig:
    """Device, block precision and kernels of the networks; `reason` explains the choice in the log."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    fused: bool = False
    fp8: bool = False


def choose_compute(
    device: str = "auto", precision: Precision = "auto", kernels: Kernels = "auto", *, fp8: bool = False
) -> ComputeConfig:
    """Resolve names from the settings: device "auto", "cpu", "cuda" or "cuda:N"; fp8: 8-bit matrix products.

    Raises PipelineError if the device is unknown or missing, or if the fused kernels or fp8 cannot run on it.
    """
    resolved, device_reason = _resolve_device(device)
    if precision == "auto":
        # float16 blocks are what upstream runs and was released in; CPUs are slow and inexact in it.
        dtype = torch.float16 if resolved.type == "cuda" else torch.float32
    else:
        dtype = getattr(torch, precision)
    obstacle = "kernels: plain is set" if kernels == "plain" else _fused_obstacle(resolved, dtype)
    if kernels == "fused" and obstacle is not None:
        raise PipelineError(f"kernels: fused cannot be used, since {obstacle}; set kernels: auto")
    if fp8 and (obstacle is not None or torch.cuda.get_device_capability(resolved) < _FP8_CAPABILITY):
        raise PipelineError(
            "acceleration.fp8 needs fused kernels and a GPU of the Hopper generation or newer "
            f"({obstacle or 'this one is older'}); leave it out of the phase"
        )
    chosen_kernels = "fused kernels" if obstacle is None else f"plain kernels ({obstacle})"
    if fp8:
        chosen_kernels += " with 8-bit products"
    reason = f"{resolved} ({device_reason}), {str(dtype).removeprefix('torch.')} blocks, {chosen_kernels}"
    return ComputeConfig(resolved, dtype, reason, fused=obstacle is None, fp8=fp8)


def _resolve_device(name: str) -> tuple[torch.device, str]:
    """Return the device of a name, and the reason for it."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        chosen, reason = ("cuda", "a CUDA device is available") if cuda else ("cpu", "no CUDA device is available")
    else:
        chosen, reason = name, "the settings ask for it"
    try:
        resolved = torch.device(chosen)
    except RuntimeError:
        raise PipelineError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise PipelineError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (not cuda or (resolved.index or 0) >= torch.cuda.device_count()):
        raise PipelineError(
            f"device {name!r} is not available: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; check nvidia-smi, or set device: cpu"
        )
    return resolved, reason


def choose_drawing_device() -> torch.device:
    """Return where a command draws pictures: the current GPU, if Triton runs there and memory is free, or the CPU."""
    if torch.cuda.is_available() and triton_obstacle(torch.device("cuda")) is None:
        free, _ = torch.cuda.mem_get_info()
        if free >= _DRAWING_MEMORY:
            return torch.device("cuda")
    return torch.device("cpu")


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a GPU is the current one of this thread; nothing changes for a CPU.

    Triton launches kernels on the current GPU, whichever their tensors are on, and graphs are captured there. A thread
    begins with the first one.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU, or (0, 0) of a CPU, where kernels run in Triton's interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def triton_obstacle(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot run on a device; None if they can."""
    if device.type != "cuda":
        return "the device is no GPU"
    if torch.cuda.get_device_capability(device) < _TRITON_CAPABILITY:
        return "the GPU is older than Ampere"
    if find_spec("triton") is None:
        return "the package triton is missing"
    if "CC" not in os.environ and which("gcc") is None and which("clang") is None:
        return "Triton needs a C compiler, and neither gcc nor clang is installed"
    return None


def _fused_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the fused kernels cannot run; None if they can."""
    obstacle = triton_obstacle(device)
    if obstacle is None and dtype == torch.float32:
        return "the precision is float32"
    return obstacle
