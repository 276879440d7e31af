import ctypes
import subprocess
import sys

import pytest

from miner.gpu.child_process import ChildProcess, Pipe
from miner.runtime.heap import trim_heap
from tests.support.resident import anonymous_bytes, kept_by_threads
from tests.support.waiting import TIMEOUT

PIECE, COUNT = 100_000, 2_000

# What a process may be larger by when everything is free again; without the limits, it is 200 MB.
SLACK = 30e6
MINING = """
from miner.cli.run import run_to_the_end
from tests.support.resident import kept_by_threads

async def work():
    print(kept_by_threads())
    return 0

run_to_the_end(work, debug=False)
"""


def tell_what_threads_keep(pipe: Pipe) -> None:
    pipe.send(kept_by_threads())


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
    kept = anonymous_bytes()
    trim_heap()
    assert kept - anonymous_bytes() > 0.8 * PIECE * COUNT
    library.free(stays)


@pytest.mark.process
def test_the_miner_keeps_nothing_of_the_pieces_that_its_threads_have_freed() -> None:
    mining = subprocess.run([sys.executable, "-c", MINING], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert int(mining.stdout) < SLACK


@pytest.mark.process
def test_nor_does_a_worker_in_a_process_of_its_own() -> None:
    worker = ChildProcess("worker", tell_what_threads_keep)
    try:
        assert worker.receive(TIMEOUT) < SLACK
    finally:
        worker.close()
