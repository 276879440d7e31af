"""Which exceptions leave the device unusable for the rest of the process."""

from __future__ import annotations

import re

import torch

# Errors of CUDA's libraries that mean that a kernel failed, not that it was asked for the impossible.
_LIBRARY_FAULT = re.compile(r"CU\w+_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)")


def breaks_the_device(error: BaseException | None) -> bool:
    """Whether this or what caused it is a CUDA error after which every further call fails, too.

    An illegal access or a failed assertion in a kernel poisons the process's CUDA context; only a new process helps.
    Running out of memory does not.
    """
    while error is not None:
        message = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in message:
            return False
        if isinstance(error, torch.AcceleratorError):
            return True
        if isinstance(error, RuntimeError) and ("CUDA error" in message or _LIBRARY_FAULT.search(message)):
            return True
        error = error.__cause__ or error.__context__
    return False
