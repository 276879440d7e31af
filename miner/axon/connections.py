"""The axon's connections: limited in number and in the time for their headers until their sender is authenticated."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from miner.config import ServingSettings
from miner.runtime import BURST_FACTOR, SPARE_FILES, ConnectionLimit, raise_file_limit

# The SDK's client sends about 1.5 kB of headers.
MAX_HEADER_BYTES = 16 * 1024
# The listening socket accepts this many at once, before any of them is counted.
BACKLOG = 128


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with time limits, since it would wait for a request's headers for ever."""

    def __init__(self, unauthenticated: ConnectionLimit, settings: ServingSettings, **uvicorn_arguments: Any) -> None:
        """Make a connection that must send its headers and take its answer within the times of the settings."""
        # The application calls these through the request's state.
        callbacks = {"admitted": self.admitted, "answering": self.answering}
        uvicorn_arguments["app_state"] = {**uvicorn_arguments["app_state"], **callbacks}
        super().__init__(**uvicorn_arguments)
        self._unauthenticated = unauthenticated
        self._settings = settings
        self._deadline: asyncio.TimerHandle | None = None
        self._is_answering = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Count the connection and start the time limit for its headers."""
        super().connection_made(transport)
        self._unauthenticated.add(self)
        self._deadline = self.loop.call_later(self._settings.header_timeout, self._abort_without_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection and cancel its time limit."""
        self._unauthenticated.remove(self)
        self._replace_deadline(None)
        super().connection_lost(exc)

    def admitted(self) -> None:
        """Stop counting the connection: its sender has been admitted."""
        self._unauthenticated.remove(self)

    def answering(self) -> None:
        """Start the time limit for the client to receive the answer, whose first byte is about to be written.

        An answer that is longer than the buffers is written only while the client reads, and its request holds its
        place in the queue meanwhile.
        """
        if not self._is_answering:
            self._is_answering = True
            self._replace_deadline(self.loop.call_later(self._settings.send_timeout, self.transport.abort))

    def on_response_complete(self) -> None:
        """Start the time limit, too, for answers that the server itself gives."""
        super().on_response_complete()
        self.answering()

    def _abort_without_headers(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def _replace_deadline(self, deadline: asyncio.TimerHandle | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = deadline


def limit_connections(config: Config, settings: ServingSettings) -> ConnectionLimit:
    """Configure a server that has not started to limit its connections, and return those that are not authenticated.

    Each answer of its application must close its connection.
    """
    burst_limit = max(raise_file_limit(settings.max_connections * BURST_FACTOR + SPARE_FILES) - SPARE_FILES, 1)
    unauthenticated = ConnectionLimit(min(settings.max_connections, burst_limit), burst_limit)

    def connect(**uvicorn_arguments: Any) -> Connection:
        return Connection(unauthenticated, settings, **uvicorn_arguments)

    factory: Callable[..., Connection] = connect
    config.http = factory
    config.ws = "none"
    config.backlog = BACKLOG
    config.h11_max_incomplete_event_size = MAX_HEADER_BYTES
    return unauthenticated
