"""Work on the device for which its memory may not suffice."""

from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import OutOfMemory

Outcome = TypeVar("Outcome")


def within_memory(work: Callable[[], Outcome], name: str) -> Outcome:
    """Return the outcome of work on the device. Raise OutOfMemory, its memory freed, if that does not suffice."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
    # Outside the handler, because the error references the tensors of every frame that it passed.
    torch.cuda.empty_cache()
    raise OutOfMemory(
        f"the GPU has too little memory for {name} ({reason}): lower max_voxels in the phase, or free the GPU of other "
        "processes"
    )
