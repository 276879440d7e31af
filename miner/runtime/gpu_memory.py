"""What the GPUs' memory is used for."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of one GPU: in use by tensors, held by torch, and all there is."""

    device: str
    name: str
    allocated: int
    reserved: int
    total: int


def gpu_memory() -> tuple[GpuMemory, ...]:
    """The GPUs that this process works on. Returns at once, also while a kernel hangs: torch's own books are read."""
    if not torch.cuda.is_initialized():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(index)
        if reserved:
            properties = torch.cuda.get_device_properties(index)
            allocated = torch.cuda.memory_allocated(index)
            found.append(GpuMemory(f"cuda:{index}", properties.name, allocated, reserved, properties.total_memory))
    return tuple(found)
