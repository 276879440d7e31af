"""Work on the device for which its memory may not suffice."""

from collections.abc import Callable
from threading import Lock
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


class SharedMemory:
    """The memory of a device on which one thread samples and another scores.

    Work that runs out of memory beside the other thread's is repeated while that waits.
    """

    def __init__(self) -> None:
        """Let nobody use it yet."""
        self._sampling, self._scoring = Lock(), Lock()

    def sample(self, work: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of sampling. Raises OutOfMemory if the whole memory does not suffice."""
        return self._share(self._sampling, self._scoring, work)

    def score(self, work: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of scoring. Raises OutOfMemory if the whole memory does not suffice."""
        return self._share(self._scoring, self._sampling, work)

    def _share(self, own: Lock, other: Lock, work: Callable[[], Outcome]) -> Outcome:
        with own:
            try:
                return work()
            except OutOfMemory:
                if not other.locked():
                    raise
        with self._sampling, self._scoring:
            return work()
