"""Blocking calls off the event loop, on threads that do not keep the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Returned = TypeVar("Returned")

# Seconds that asyncio.to_thread's calls get to return when the event loop ends.
END_TIMEOUT = 2.0


class ImpatientExecutor(ThreadPoolExecutor):
    """Threads for asyncio.to_thread that are waited for at the end of the event loop, but not for long.

    asyncio itself waits minutes for a call that cannot be stopped, or for ever. The process must end with os._exit,
    since the interpreter would wait for these threads, too.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait`, wait END_TIMEOUT seconds at most for those in progress."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            ending = threading.Thread(target=super().shutdown, name="end of threads", daemon=True)
            ending.start()
            ending.join(END_TIMEOUT)


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
