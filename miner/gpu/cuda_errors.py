"""Which exceptions leave the device unusable for the rest of the process."""

import re

import torch

# Statuses of CUDA's libraries that mean that a kernel failed, not that it was asked for the impossible.
_LIBRARY_FAILURE = re.compile(r"CU\w+_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)")


def is_fatal_cuda_error(error: BaseException | None) -> bool:
    """Return whether the error or one of its causes is a CUDA error after which every further call fails, too.

    An illegal access or a failed assertion in a kernel corrupts the process's CUDA context, and only a new process
    helps. Running out of memory does not.
    """
    while error is not None:
        message = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in message:
            return False
        if isinstance(error, torch.AcceleratorError):
            return True
        if isinstance(error, RuntimeError) and ("CUDA error" in message or _LIBRARY_FAILURE.search(message)):
            return True
        error = error.__cause__ or error.__context__
    return False
