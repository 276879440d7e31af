"""Waiting for what happens on other threads."""

import asyncio
import threading
from collections.abc import Callable

TIMEOUT = 30.0
"""Seconds after which a test gives up; far more than anything takes."""


async def until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109
    """Return once the condition holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


def hold(begun: threading.Event, proceed: threading.Event) -> Callable[[], None]:
    """A function that tells that it has begun, and returns once it may."""

    def wait() -> None:
        begun.set()
        assert proceed.wait(TIMEOUT)

    return wait
