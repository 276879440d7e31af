"""How much memory of the GPUs is in use."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GpuMemory:
    """The memory of one GPU in bytes: allocated by tensors, reserved by torch, and in total."""

    device: str
    name: str
    allocated: int
    reserved: int
    total: int


def read_gpu_memory() -> tuple[GpuMemory, ...]:
    """Return the memory of each GPU that this process works on: torch's numbers, at once even if a kernel hangs."""
    if not torch.cuda.is_initialized():
        return ()
    gpus = []
    for index in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(index)
        if reserved:
            properties = torch.cuda.get_device_properties(index)
            allocated = torch.cuda.memory_allocated(index)
            gpus.append(GpuMemory(f"cuda:{index}", properties.name, allocated, reserved, properties.total_memory))
    return tuple(gpus)
