"""Answers that are kept for a while, so that many who look cost one reading."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from miner.analytics import Json

# Seconds for which an answer is kept.
CACHE_SECONDS = 10.0
# Answers that are kept; a query may name anything.
MAX_CACHED = 32


class AnswerCache:
    """Answers by what was asked, read in a thread, one at a time."""

    def __init__(self) -> None:
        """Begin with none."""
        self._answers: OrderedDict[str, tuple[float, Json]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def get(self, key: str, read: Callable[[], Json]) -> Json:
        """Return the answer of `read`, which blocks, or that of less than CACHE_SECONDS ago."""
        # One reader at a time, so that requests which come together are answered with one reading.
        async with self._lock:
            read_at, answer = self._answers.get(key, (float("-inf"), {}))
            if time.monotonic() - read_at > CACHE_SECONDS:
                answer = await asyncio.to_thread(read)
                self._answers[key] = time.monotonic(), answer
                self._answers.move_to_end(key)
                if len(self._answers) > MAX_CACHED:
                    self._answers.popitem(last=False)
        return answer
