"""Background tasks that are restarted with a back-off when they fail, and end the miner when that does not help."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection

from miner.errors import MinerError
from miner.runtime.clock import SYSTEM_CLOCK, Clock, backoff

log = logging.getLogger(__name__)

FIRST_RESTART_DELAY = 1.0
LAST_RESTART_DELAY = 300.0
# Seconds after which a task that has not failed is healthy again, and its failures are counted anew.
STABLE_AFTER = 600.0
# Failures in a row after which a task is given up: some four minutes of back-off.
MAX_FAILURES = 8


class Supervisor:
    """Named background tasks, each of which runs until its coroutine returns or it is stopped."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        """Supervise nothing yet; call this on the event loop that is to run the tasks."""
        self.restarts: Counter[str] = Counter()
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[MinerError] = asyncio.get_running_loop().create_future()

    def start(self, name: str, run: Callable[[], Awaitable[None]], *, vital: bool = True) -> None:
        """Run `run` as a task, and run it again whenever it raises.

        A MinerError is not retried but ends the miner. So does a vital task that fails MAX_FAILURES times in a row;
        other tasks are run again for ever.
        """
        self._tasks[name] = asyncio.create_task(self._keep_running(name, run, vital), name=name)

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]], is_vital: bool) -> None:
        failures = 0
        while True:
            started = self._clock.now()
            try:
                await run()
            except MinerError as error:
                self._fail(error)
                return
            except (Exception, asyncio.CancelledError):
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                is_stable = self._clock.now() - started >= STABLE_AFTER
                failures = 1 if is_stable else failures + 1
                self.restarts[name] += 1
                delay = backoff(failures, FIRST_RESTART_DELAY, LAST_RESTART_DELAY)
                log.exception("%s failed (%d in a row) and is restarted in %.0f s", name, failures, delay)
                if is_vital and failures >= MAX_FAILURES:
                    self._fail(MinerError(f"{name} failed {failures} times in a row, so the miner cannot go on"))
                await self._clock.sleep(delay)
            else:
                if self._tasks.get(name) is asyncio.current_task():
                    del self._tasks[name]
                return

    def _fail(self, error: MinerError) -> None:
        if not self._failure.done():
            self._failure.set_result(error)

    async def wait_for_failure(self) -> MinerError:
        """Wait until the miner must end, and return the reason."""
        return await asyncio.shield(self._failure)

    async def finish(self, names: Collection[str], timeout: float) -> None:  # noqa: ASYNC109
        """Wait until these tasks have returned, but no longer than `timeout` seconds."""
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def cancel(self, name: str) -> asyncio.Task[None] | None:
        """Cancel a task and return it, since it may take a while to end; return None if there is no such task."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        return task

    async def stop(self, *names: str) -> None:
        """Cancel these tasks, by default all of them, and wait until they have ended."""
        tasks = [self.cancel(name) for name in names or tuple(self._tasks)]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
