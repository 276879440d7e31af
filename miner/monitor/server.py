"""The monitor's HTTP server: GET /health, the routes of its other parts, and what keeps strangers' pages out."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from miner.errors import OperatorError
from miner.monitor.status import Status

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Seconds that requests in progress get when we stop.
SHUTDOWN_TIMEOUT = 1.0
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def error(status: int, message: str, **headers: str) -> web.Response:
    """An answer that says what is wrong."""
    return web.json_response({"error": message}, status=status, headers=headers)


def is_loopback(name: str) -> bool:
    """Whether a host's name or address, without port, can only be this machine."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    # A socket for both kinds shows clients of the old kind as ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_of_another_site(request: web.Request) -> bool:
    """Whether a browser says that a page that is not ours has sent this; other clients say nothing."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and origin != f"{request.scheme}://{request.host}"


def _add_headers(response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


class Monitor:
    """Serves on the running event loop; knows no more of the miner than what `status` and its parts tell."""

    def __init__(
        self, status: Callable[[], Status], host: str, port: int, routes: Iterable[web.AbstractRouteDef] = ()
    ) -> None:
        """`status` must return at once: it is called on the event loop for each request."""
        self._status = status
        self._host = host
        self._port = port
        application = web.Application(middlewares=[self._guarded])
        application.router.add_get("/health", self.health)
        application.router.add_routes(routes)
        # Who does not wait for an answer any more has its generation dropped.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            handler_cancellation=True,
        )

    async def start(self) -> None:
        """Listen. Raises OperatorError if the address cannot be bound."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as problem:
            await self._runner.cleanup()
            raise OperatorError(
                f"the monitor cannot listen on {self._host}:{self._port} ({problem.strerror}): stop what holds the "
                "port, choose another with --monitor.port, or none with --monitor.port 0"
            ) from None

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def health(self, _request: web.Request) -> web.Response:
        """The status as JSON, without the validators; 200 if the miner can work, 503 if it cannot."""
        status = self._status()
        content: dict[str, Any] = status.as_json()
        del content["validators"]
        return web.json_response(content, status=200 if status.able_to_work else 503)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what a page of another site makes the operator's browser send; add headers."""
        try:
            response = self._refusal(request) or await handler(request)
        except web.HTTPException as raised:
            _add_headers(raised)
            raise
        _add_headers(response)
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "localhost")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        # A name that its owner lets point to this machine (DNS rebinding) would make us part of its site.
        if is_loopback(self._host) and not is_loopback(name):
            return error(403, "this server answers to localhost only")
        if request.method not in ("GET", "HEAD") and _is_of_another_site(request):
            return error(403, "a page of another site has sent this")
        return None
