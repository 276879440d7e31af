"""The nonces of requests that were admitted, so that no request is answered twice, also not after a restart."""

import json
import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from miner.runtime import Clock, write_atomically

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
# Nonces are kept for longer than the window, since a wall clock that is set back moves the window over old ones again;
# summer time and wrong time zones are less than a day. The number bounds the memory that they take, some 15 MB.
KEPT_SECONDS = 90_000.0
MAX_KEPT = 100_000
# Of these so many outlive a restart, in some 200 kB that are written with each request.
MAX_SAVED = 10_000


class ReplayWindow:
    """The nonces that were used lately; a nonce is the sender's unix time in nanoseconds.

    A nonce is acceptable within a window around our wall clock, once. How long it was used ago is told by the steady
    clock, so that a wall clock that is put right makes requests acceptable at once and replays never.
    """

    def __init__(self, window: float, clock: Clock, path: Path | None = None) -> None:
        """Allow nonces within `window` seconds of our clock; `path` keeps the latest over a restart."""
        self._window = int(window * NANOSECONDS)
        self._clock = clock
        self._path = path
        self._has_failed = False
        # In the order in which they were used; the values are moments of the steady clock.
        self._used: dict[int, float] = dict.fromkeys(self._load(), clock.now())

    def __len__(self) -> int:
        """Return the number of nonces that are remembered."""
        return len(self._used)

    def find_problem(self, nonce: int) -> str | None:
        """Return why a nonce is not acceptable, or None if it is."""
        ahead = nonce - int(self._clock.wall() * NANOSECONDS)
        if abs(ahead) > self._window:
            offset = f"{abs(ahead) / NANOSECONDS:.1f} s {'ahead of' if ahead > 0 else 'behind'} our clock"
            return f"the nonce is {offset}, at most {self._window / NANOSECONDS:g} s are allowed"
        return "the nonce was used before" if nonce in self._used else None

    def remember(self, nonce: int) -> None:
        """Mark a nonce as used, by whichever hotkey."""
        now = self._clock.now()
        self._used[nonce] = now
        while len(self._used) > MAX_KEPT or next(iter(self._used.values())) < now - KEPT_SECONDS:
            del self._used[next(iter(self._used))]
        if self._path is not None:
            self._save(self._path)

    def _save(self, path: Path) -> None:
        """Write the latest nonces, the oldest first, so that a restart with a clock set back forgets none of them."""
        latest = [*islice(reversed(self._used), MAX_SAVED)][::-1]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(latest))
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                log.warning("Used nonces cannot be written to %s: %s", path, error.strerror)
            self._has_failed = True

    def _load(self) -> Iterable[int]:
        try:
            content = json.loads(self._path.read_bytes()) if self._path is not None else []
            return [int(nonce) for nonce in content]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            log.warning("The used nonces in %s cannot be read and start afresh: %s", self._path, type(error).__name__)
            return []
