import ctypes
from pathlib import Path

import pytest

from miner.runtime.heap import trim_heap

PIECE, COUNT = 100_000, 2_000


def resident() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def test_memory_that_was_freed_between_pieces_that_stay_goes_back_to_the_system() -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        pytest.skip("not glibc")
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    trim_heap()
    pieces = [library.malloc(PIECE) for _ in range(COUNT)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    stays = pieces[-1]
    for piece in pieces[:-1]:
        library.free(piece)
    kept = resident()
    trim_heap()
    assert kept - resident() > 0.8 * PIECE * COUNT
    library.free(stays)
