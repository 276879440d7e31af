"""Memory that this process has freed, and that the C library keeps for later."""

import ctypes


def trim_heap() -> None:
    """Return freed memory to the system, as far as the C library can; glibc does so by itself at the heap's top only.

    Results and checkpoints come and go in pieces of megabytes, between which a little stays.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
