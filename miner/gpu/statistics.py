"""What a worker counts of its candidates."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# Seconds over which the candidates a minute are counted.
WINDOW = 300.0


@dataclass(eq=False)
class CandidateCounter:
    """Counts candidates, in all and a minute, for any thread."""

    now: Callable[[], float] = time.monotonic
    total: int = 0
    _started: float | None = None
    _ends: deque[float] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        """Count a candidate that is done now."""
        now = self.now()
        with self._lock:
            self._started = now if self._started is None else self._started
            self.total += 1
            self._ends.append(now)
            self._forget(now)

    @property
    def per_minute(self) -> float:
        """Candidates a minute in the last WINDOW seconds, or since the first if that is shorter; 0.0 before two."""
        now = self.now()
        with self._lock:
            self._forget(now)
            if self._started is None or len(self._ends) < 2:
                return 0.0
            return 60 * len(self._ends) / max(min(now - self._started, WINDOW), 1.0)

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0] < now - WINDOW:
            self._ends.popleft()
