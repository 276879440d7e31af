"""Blocking calls off the event loop, on threads that do not keep the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Returned = TypeVar("Returned")


async def run_in_daemon(blocking: Callable[[], Returned], name: str) -> Returned:
    """Call `blocking` on a daemon thread of this name, and return or raise what it does.

    Unlike with asyncio.to_thread, a call that the caller gives up on does not delay the end of the process.
    """
    future: Future[Returned] = Future()

    def run() -> None:
        try:
            result = blocking()
        except Exception as error:  # handed to whoever awaits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    # Shielded, since a cancelled future could not take the result that the thread sets later.
    return await asyncio.shield(asyncio.wrap_future(future))
