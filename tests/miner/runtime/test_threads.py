import asyncio
import threading

import pytest

from miner.runtime import ImpatientExecutor
from miner.runtime import threads as threads_module
from tests.support.waiting import TIMEOUT, until


@pytest.fixture
def released() -> threading.Event:
    return threading.Event()


def test_a_call_that_hangs_does_not_delay_the_end(released: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "END_TIMEOUT", 0.1)
    begun, ended = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        released.wait(TIMEOUT)
        ended.set()

    async def work() -> str:
        asyncio.get_running_loop().set_default_executor(ImpatientExecutor())
        hanging = asyncio.ensure_future(asyncio.to_thread(hang))
        await until(begun.is_set)
        hanging.cancel()
        return "done"

    assert asyncio.run(work()) == "done"
    assert not ended.is_set()
    released.set()
    assert ended.wait(TIMEOUT)


def test_a_call_that_returns_soon_is_waited_for() -> None:
    begun, written = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        threading.Event().wait(0.05)
        written.set()

    async def work() -> None:
        asyncio.get_running_loop().set_default_executor(ImpatientExecutor())
        writing = asyncio.ensure_future(asyncio.to_thread(write))
        await until(begun.is_set)
        writing.cancel()

    asyncio.run(work())
    assert written.is_set()
