"""Limits on connections of whom nothing is known, which push out the oldest, and on files that may be open."""

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# Seconds in which an honest client sends its request's headers. Connections younger than this may exceed the limit, up
# to BURST_FACTOR times, so that a burst of clients does not push each other out.
HEADER_GRACE = 3.0
BURST_FACTOR = 4
# Files that the rest of the miner may have open beside the connections of a server.
SPARE_FILES = 512


def raise_file_limit(count: int) -> int:
    """Let this process open `count` files if the system permits, and return how many of them it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    permitted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < permitted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, hard))
    return permitted


class LimitedConnection(Protocol):
    """A connection that can be aborted."""

    @property
    def transport(self) -> asyncio.Transport:
        """The transport."""


@dataclass(eq=False)
class ConnectionLimit:
    """The connections of which no request is known, oldest first: `limit` of them, by `clock`.

    While the oldest is younger than HEADER_GRACE, `burst_limit` are allowed. Since an honest client is among them only
    while its headers are on their way, the oldest is the likeliest attacker.
    """

    limit: int
    burst_limit: int
    clock: Callable[[], float] = time.monotonic
    # By connection, the time at which it was added; a dict keeps that order.
    _added_at: dict[LimitedConnection, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._added_at)

    def add(self, connection: LimitedConnection) -> None:
        """Add a connection, and abort the oldest ones while there are too many."""
        now = self.clock()
        self._added_at[connection] = now
        while len(self._added_at) > self.limit:
            oldest, added_at = next(iter(self._added_at.items()))
            if now - added_at < HEADER_GRACE and len(self._added_at) <= self.burst_limit:
                break
            self.remove(oldest)
            oldest.transport.abort()

    def remove(self, connection: LimitedConnection) -> None:
        """Remove a connection that was closed or whose request is known."""
        self._added_at.pop(connection, None)
