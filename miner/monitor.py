"""The miner's state over HTTP: GET /health, for process managers and people on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from aiohttp import web

from miner.errors import OperatorError

SERVICE = "sn17-miner"
# Seconds that requests in progress get when we stop.
SHUTDOWN_TIMEOUT = 1.0


@dataclass(frozen=True)
class Status:
    """What the miner tells of itself; times are unix seconds, ages and durations seconds, None is "not yet"."""

    status: Literal["starting", "ok", "stopping"]
    pipeline_loaded: bool
    phase: str
    queue: int
    metagraph_age: float | None
    last_success: float | None
    uptime: float
    counters: Mapping[str, int]
    service: str = SERVICE
    version: str = ""

    @property
    def able_to_work(self) -> bool:
        """Whether tasks are taken."""
        return self.status == "ok"


def installed_version() -> str:
    """The version of the installed package, "unknown" for a bare checkout."""
    try:
        return version(SERVICE)
    except PackageNotFoundError:
        return "unknown"


class Monitor:
    """Serves on the running event loop; knows no more of the miner than what `status` returns."""

    def __init__(self, status: Callable[[], Status], host: str, port: int) -> None:
        """`status` must return at once: it is called on the event loop for each request."""
        self._status = status
        self._host = host
        self._port = port
        application = web.Application()
        application.router.add_get("/health", self.health)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT
        )

    async def start(self) -> None:
        """Listen. Raises OperatorError if the address cannot be bound."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise OperatorError(
                f"the monitor cannot listen on {self._host}:{self._port} ({error.strerror}): stop what holds the port, "
                "choose another with --monitor.port, or none with --monitor.port 0"
            ) from None

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def health(self, _request: web.Request) -> web.Response:
        """The status as JSON; 200 if the miner can work, 503 if it cannot."""
        status = self._status()
        return web.json_response(
            vars(status) | {"counters": dict(status.counters)},
            status=200 if status.able_to_work else 503,
            headers={"Cache-Control": "no-store"},
        )
