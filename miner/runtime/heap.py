"""Memory that this process has freed, and that the C library keeps for later."""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Bytes. With 1 MiB, packing an SPZ takes twice as long, since its passes over some MB each get new memory every time.
LARGE_PIECE = 8 * 2**20
ARENAS = 2


def return_large_pieces() -> None:
    """Have memory go back to the system when it is freed, if it is of LARGE_PIECE bytes or more; on glibc only.

    By itself, glibc raises its thresholds to 32 and 64 MB as soon as pieces of that size are freed, and gives threads
    arenas of their own, eight a core. Tensors then lie between what stays, and each arena keeps up to 64 MB at its top,
    which `trim_heap` cannot reach; with this, there are ARENAS of them, which keep LARGE_PIECE each.

    To be called before threads are started: those that have an arena stay there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Either threshold also keeps glibc from changing both.
        mallopt(_M_MMAP_THRESHOLD, LARGE_PIECE)
        mallopt(_M_TRIM_THRESHOLD, LARGE_PIECE)
        mallopt(_M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return freed memory to the system, as far as the C library can; glibc does so by itself at the heap's top only.

    Results and checkpoints come and go in pieces of megabytes, between which a little stays.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
