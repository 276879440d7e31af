"""Waiting for what happens on other threads."""

import asyncio
from collections.abc import Callable

TIMEOUT = 30.0
"""Seconds after which a test gives up; far more than anything takes."""


async def until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109
    """Return once the condition holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)
