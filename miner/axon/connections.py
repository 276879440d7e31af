"""The axon's connections: one request each, complete headers in time, and no more strangers than there is room for."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

# The SDK's client sends about 1.5 kB of headers.
MAX_HEADER_BYTES = 16 * 1024
# The listening socket accepts this many in one go, before any of them is counted.
BACKLOG = 128
# Seconds in which a client must take our answer; the largest is about 20 MB.
SEND_TIMEOUT = 120.0
# Seconds in which a client should get its headers through, and how many times as many may try at once in a rush.
GRACE = 3.0
RUSH = 4
# Files that the rest of the miner may have open meanwhile.
SPARE_FILES = 512


class UnauthenticatedConnections:
    """Connections whose sender has not been admitted, oldest first.

    Since an honest client is a stranger only while its headers are on their way, the oldest is the likeliest attacker.
    """

    def __init__(self, limit: int, rush: int, clock: Callable[[], float] = time.monotonic) -> None:
        """There may be more than `limit`, but not more than `rush`, while the oldest is younger than GRACE."""
        self._limit = limit
        self._rush = rush
        self._clock = clock
        # A dict, since it keeps its order; the values are the times at which they came.
        self._connections: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Closes the oldest while there are too many."""
        now = self._clock()
        self._connections[connection] = now
        while len(self._connections) > self._limit:
            oldest, since = next(iter(self._connections.items()))
            if now - since < GRACE and len(self._connections) <= self._rush:
                break
            self.remove(oldest)
            oldest.transport.abort()

    def remove(self, connection: Connection) -> None:
        """It is gone, or no stranger any more."""
        self._connections.pop(connection, None)


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, which by itself waits for a request's headers for ever."""

    def __init__(self, strangers: UnauthenticatedConnections, header_timeout: float, **uvicorns: Any) -> None:
        # The state is how the application finds us.
        uvicorns["app_state"] = {**uvicorns["app_state"], "admitted": self.admitted}
        super().__init__(**uvicorns)
        self._strangers = strangers
        self._header_timeout = header_timeout
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._strangers.add(self)
        self._deadline = self.loop.call_later(self._header_timeout, self._headers_are_due)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._strangers.remove(self)
        self._restart_deadline(None)
        super().connection_lost(exc)

    def admitted(self) -> None:
        """The sender is known and allowed."""
        self._strangers.remove(self)

    def on_response_complete(self) -> None:
        """All is written, but not yet taken by the client."""
        super().on_response_complete()
        self._restart_deadline(self.loop.call_later(SEND_TIMEOUT, self.transport.abort))

    def _headers_are_due(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def _restart_deadline(self, deadline: asyncio.TimerHandle | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = deadline


def allow_files(count: int) -> int:
    """Let this process have that many open files, as far as the system permits; how many of them it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def guard(config: Config, max_strangers: int, header_timeout: float) -> UnauthenticatedConnections:
    """Make a server that has not started use these connections; every answer of its application must close its own."""
    files = allow_files(max_strangers * RUSH + SPARE_FILES)
    rush = max(files - SPARE_FILES, 1)
    strangers = UnauthenticatedConnections(min(max_strangers, rush), rush)

    def connect(**uvicorns: Any) -> Connection:
        return Connection(strangers, header_timeout, **uvicorns)

    factory: Callable[..., Connection] = connect
    config.http = factory
    config.ws = "none"
    config.backlog = BACKLOG
    config.h11_max_incomplete_event_size = MAX_HEADER_BYTES
    return strangers
