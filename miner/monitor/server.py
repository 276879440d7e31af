"""The monitor's HTTP server: GET /health, the routes of its other parts, and protection from pages of other sites."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from miner.errors import OperatorError
from miner.monitor.connections import MAX_CONNECTIONS, Connection, Connections
from miner.monitor.status import StatusSource
from miner.runtime import BURST_FACTOR, SPARE_FILES, raise_file_limit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Seconds for requests in progress when the server stops.
SHUTDOWN_TIMEOUT = 1.0
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def error_response(status: int, message: str, **headers: str) -> web.Response:
    """Return a response whose JSON says what is wrong."""
    return web.json_response({"error": message}, status=status, headers=headers)


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address, without a port, can only be this machine."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # A socket for both versions of IP shows IPv4 clients as ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_cross_site(request: web.Request) -> bool:
    """Return whether a browser says that a page of another site sent this; other clients say nothing."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and origin != f"{request.scheme}://{request.host}"


def _add_headers(response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


class Monitor:
    """An HTTP server on the running event loop that shows a status."""

    def __init__(
        self, source: StatusSource, host: str, port: int, routes: Iterable[web.AbstractRouteDef] = (),
        other_port: str = "--monitor.port, or none with --monitor.port 0", allowed_hosts: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Serve GET /health and `routes`; nothing is bound before `start`.

        `other_port` are the options to advise, `allowed_hosts` the names by which clients may call this server.
        """
        self._source = source
        self._host = host
        self._port = port
        self._other_port = other_port
        self._names = {"localhost", host.lower(), *(name.lower() for name in allowed_hosts)}
        self._connections = Connections()
        self._server: asyncio.Server | None = None
        application = web.Application(middlewares=[self._protect])
        application.router.add_get("/health", self.health)
        application.router.add_routes(routes)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT,
            # A client that hangs up has its generation cancelled.
            handler_cancellation=True,
        )  # fmt: skip

    async def start(self) -> None:
        """Listen. Raises OperatorError if the address cannot be bound."""
        raise_file_limit(MAX_CONNECTIONS * BURST_FACTOR + SPARE_FILES)
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(self._connect, self._host, self._port)
        except OSError as problem:
            await self._runner.cleanup()
            raise OperatorError(
                f"the monitor cannot listen on {self._host}:{self._port} ({problem.strerror}): stop the process that "
                f"uses the port, or choose another with {self._other_port}"
            ) from None

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connect(self) -> Connection:
        server = self._runner.server
        assert server is not None, "the runner was set up"
        return Connection(server(), self._connections)

    async def health(self, _request: web.Request) -> web.Response:
        """Return the status as JSON, without the validators; 200 if the miner takes tasks, else 503."""
        status = self._source.status()
        content: dict[str, Any] = status.as_json()
        del content["validators"]
        return web.json_response(content, status=200 if status.able_to_work else 503)

    @web.middleware
    async def _protect(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests that a page of another site makes the operator's browser send, and add headers."""
        try:
            with self._connections.working(request):
                response = self._refuse(request) or await handler(request)
        except web.HTTPException as raised:
            _add_headers(raised)
            raise
        _add_headers(response)
        return response

    def _refuse(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "localhost")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        # With DNS rebinding, a name that its owner lets point to this machine would make this server part of its site;
        # an address cannot point elsewhere.
        if name.lower() not in self._names and not _is_address(name):
            return error_response(403, "call this server by its address, or add its name to monitor.allowed_hosts")
        if request.method not in ("GET", "HEAD") and _is_cross_site(request):
            return error_response(403, "this request was sent by a page of another site")
        return None
