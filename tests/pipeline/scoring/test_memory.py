"""Memory that sampling and scoring use at the same time: what runs out beside the other is repeated alone."""

import threading
from collections.abc import Callable

import pytest

from pipeline.errors import OutOfMemory
from pipeline.scoring.memory import SharedMemory
from tests.support.waiting import TIMEOUT

Use = Callable[[SharedMemory], Callable[[Callable[[], str]], str]]


@pytest.mark.parametrize(
    ("used", "other"),
    [
        (lambda memory: memory.score, lambda memory: memory.sample),
        (lambda memory: memory.sample, lambda memory: memory.score),
    ],
    ids=["scoring", "sampling"],
)
def test_what_runs_out_of_memory_beside_the_other_is_repeated_once_that_is_done(used: Use, other: Use) -> None:
    memory, begun, failed = SharedMemory(), threading.Event(), threading.Event()
    order: list[str] = []

    def long() -> str:
        begun.set()
        assert failed.wait(TIMEOUT)
        order.append("the other is done")
        return "long"

    def greedy() -> str:
        if not failed.is_set():
            failed.set()
            raise OutOfMemory("too little")
        order.append("repeated")
        return "greedy"

    thread = threading.Thread(target=other(memory), args=(long,))
    thread.start()
    assert begun.wait(TIMEOUT)
    assert used(memory)(greedy) == "greedy"
    thread.join(TIMEOUT)
    assert order == ["the other is done", "repeated"]


def test_what_needs_more_than_the_whole_memory_fails_at_once_and_leaves_it_usable() -> None:
    memory, attempts = SharedMemory(), []

    def greedy() -> str:
        attempts.append(1)
        raise OutOfMemory("too little")

    for use in (memory.sample, memory.score):
        with pytest.raises(OutOfMemory, match="too little"):
            use(greedy)
        assert use(lambda: "fits") == "fits"
    assert len(attempts) == 2


def test_both_may_run_out_at_the_same_time() -> None:
    memory, both = SharedMemory(), threading.Barrier(2)
    results: list[str] = []

    def greedy(name: str) -> Callable[[], str]:
        attempts: list[int] = []

        def work() -> str:
            attempts.append(1)
            if len(attempts) == 1:
                both.wait(TIMEOUT)
                raise OutOfMemory("too little")
            return name

        return work

    def run(use: Callable[[Callable[[], str]], str], name: str) -> None:
        try:
            results.append(use(greedy(name)))
        except OutOfMemory:
            # The other had given its memory back before this one looked.
            results.append(name)

    threads = [threading.Thread(target=run, args=each) for each in ((memory.sample, "a"), (memory.score, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(results) == ["a", "b"]
