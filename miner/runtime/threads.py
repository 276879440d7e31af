"""Blocking calls off the event loop, on threads that do not keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Returned = TypeVar("Returned")


async def run_in_daemon(blocking: Callable[[], Returned], name: str) -> Returned:
    """What `blocking` returns or raises. Unlike asyncio.to_thread, giving up on it leaves nothing to wait for."""
    future: Future[Returned] = Future()

    def run() -> None:
        try:
            result = blocking()
        except Exception as error:  # handed to whoever awaits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    # Shielded, since a cancelled future could not take the result that the thread still brings.
    return await asyncio.shield(asyncio.wrap_future(future))
