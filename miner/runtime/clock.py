"""The clocks that code reads instead of the time module, so that tests can replace them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """The time, and a way to wait for it.

    `now` returns seconds from an arbitrary start that never step, `wall` returns unix seconds, and `sleep` waits for a
    number of the seconds of `now`.
    """

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


SYSTEM_CLOCK = Clock()
