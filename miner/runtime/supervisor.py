"""Background tasks that do not die quietly: restarted with back-off, counted, and the end of the miner if in vain."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from miner.errors import MinerError
from miner.runtime.clock import SYSTEM_CLOCK, Clock

log = logging.getLogger(__name__)

FIRST_RESTART_DELAY = 1.0
LAST_RESTART_DELAY = 300.0
# A task that ran this long begins to count anew.
STABLE_AFTER = 600.0
# Deaths in a row after which a task is held to be beyond help: some four minutes of back-off.
HOPELESS = 8


def restart_delay(deaths: int) -> float:
    """Back-off after the n-th death in a row, n >= 1: doubling from 1 s to 300 s."""
    return float(min(FIRST_RESTART_DELAY * 2 ** min(deaths - 1, 10), LAST_RESTART_DELAY))


@dataclass
class _Supervised:
    group: str
    vital: bool
    task: asyncio.Task[None] | None = None
    deaths: int = 0


class Supervisor:
    """Runs named coroutines until they return; `failed` ends when a whole group of them keeps dying."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.restarts: Counter[str] = Counter()
        self._clock = clock
        self._supervised: dict[str, _Supervised] = {}
        self._failure: asyncio.Future[MinerError] = asyncio.get_running_loop().create_future()

    def start(
        self, name: str, run: Callable[[], Awaitable[None]], group: str | None = None, *, vital: bool = True
    ) -> None:
        """Run `run` and, whenever it raises, run it again; one that returns is done.

        When all tasks of a group (by default the task alone) have died HOPELESS times in a row, the miner fails, unless
        they are not vital.
        """
        supervised = _Supervised(group or name, vital)
        self._supervised[name] = supervised
        supervised.task = asyncio.create_task(self._keep_running(name, supervised, run), name=name)

    async def _keep_running(self, name: str, supervised: _Supervised, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            started = self._clock.now()
            try:
                await run()
            except MinerError as error:
                # Raised on purpose: it says how the process is to end.
                self._fail(error)
                return
            except (Exception, asyncio.CancelledError):
                ours = asyncio.current_task()
                if ours is not None and ours.cancelling():
                    raise
                stable = self._clock.now() - started >= STABLE_AFTER
                supervised.deaths = 1 if stable else supervised.deaths + 1
                self.restarts[name] += 1
                delay = restart_delay(supervised.deaths)
                log.exception("%s died (%d in a row) and starts again in %.0f s", name, supervised.deaths, delay)
                if supervised.vital:
                    self._check(supervised.group)
                await self._clock.sleep(delay)
            else:
                if self._supervised.get(name) is supervised:
                    del self._supervised[name]
                return

    def _check(self, group: str) -> None:
        deaths = [supervised.deaths for supervised in self._supervised.values() if supervised.group == group]
        if min(deaths, default=0) >= HOPELESS:
            self._fail(MinerError(f"{group} died {HOPELESS} times in a row and cannot do its job"))

    def _fail(self, error: MinerError) -> None:
        if not self._failure.done():
            self._failure.set_result(error)

    async def failed(self) -> MinerError:
        """Why the miner must end, once it must."""
        return await asyncio.shield(self._failure)

    async def finish(self, names: Collection[str], timeout: float) -> None:  # noqa: ASYNC109
        """Wait for these to return, `timeout` seconds at most."""
        tasks = [self._supervised[name].task for name in names if name in self._supervised]
        if tasks:
            await asyncio.wait([task for task in tasks if task is not None], timeout=timeout)

    def cancel(self, name: str) -> asyncio.Task[None] | None:
        """End this task, if it runs; it may take some steps more to end."""
        supervised = self._supervised.pop(name, None)
        if supervised is None or supervised.task is None:
            return None
        supervised.task.cancel()
        return supervised.task

    async def stop(self, *names: str) -> None:
        """Cancel these tasks, by default all, and wait for their end."""
        tasks = [self.cancel(name) for name in names or tuple(self._supervised)]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
