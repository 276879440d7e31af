"""The clock that code reads instead of the time module, so that tests can replace it, and the back-off of retries."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """The time: `now` in seconds that never step, in which `sleep` waits, and `wall` in unix seconds."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


SYSTEM_CLOCK = Clock()


def backoff(failures: int, first: float, last: float) -> float:
    """Return the delay after the n-th failure in a row, n >= 1: `first`, doubled with each further one up to `last`."""
    # The exponent is bounded because a float overflows after some thousand failures.
    return min(first * 2.0 ** min(failures - 1, 64), last)
