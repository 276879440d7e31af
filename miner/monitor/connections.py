"""The monitor's connections: limited in number, and in the time in which their clients send and read nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from miner.runtime import BURST_FACTOR, ConnectionLimit

# A browser opens six, Prometheus one.
MAX_CONNECTIONS = 64
# Seconds in which a client must send a request, and between two looks at whether it reads its answer.
IDLE_TIMEOUT = 20.0


class Connection(asyncio.Protocol):
    """A connection that is served by aiohttp's `handler`, and aborted if its client keeps it open for nothing."""

    transport: asyncio.Transport

    def __init__(self, handler: web.RequestHandler, connections: "Connections") -> None:
        """Serve with this handler; `connections` are all there are."""
        self.handler = handler
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and wait for its request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.handler.connection_made(transport)
        self._connections.by_handler[self.handler] = self
        self.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self.work()
        del self._connections.by_handler[self.handler]
        self.handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what was received."""
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """Pass on that the client sends no more."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the buffer is full."""
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that there is room in the buffer."""
        self.handler.resume_writing()

    def work(self) -> None:
        """Stop the time: a request is being answered, or the connection is closed."""
        self._connections.idle.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    def wait(self) -> None:
        """Start the time in which the client must read its answer, if it has one, and send the next request."""
        if not self.transport.is_closing():
            self._connections.idle.add(self)
        self._look_again()

    def _look_again(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self._abort_if_idle)

    def _abort_if_idle(self) -> None:
        # Whoever reads slowly may go on.
        if self.transport.get_write_buffer_size() == self._unread:
            self.transport.abort()
        else:
            self._look_again()


class Connections:
    """The connections of one server."""

    def __init__(self) -> None:
        """Begin with none."""
        self.by_handler: dict[web.RequestHandler, Connection] = {}
        self.idle = ConnectionLimit(MAX_CONNECTIONS, MAX_CONNECTIONS * BURST_FACTOR)

    @contextmanager
    def working(self, request: web.Request) -> Iterator[None]:
        """Let the request's connection be, while the context lasts."""
        connection = self.by_handler.get(request.protocol)
        if connection is None:
            yield
            return
        connection.work()
        try:
            yield
        finally:
            if request.protocol in self.by_handler:
                connection.wait()
