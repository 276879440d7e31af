import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from miner.localnet.validator import LOOPBACK, free_port
from miner.monitor import Monitor
from miner.monitor import connections as connections_module
from miner.monitor.connections import MAX_CONNECTIONS
from miner.runtime import BURST_FACTOR
from tests.support.monitor import FixedStatus
from tests.support.waiting import TIMEOUT, until

LARGE = bytes(30_000_000)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class ServedMonitor:
    """A monitor with a route that answers once it may, and one with a long answer."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.port = free_port()
        routes = [web.get("/slow", self.slow), web.get("/large", self.large)]
        self.monitor = Monitor(FixedStatus(), LOOPBACK, self.port, routes)

    async def slow(self, _request: web.Request) -> web.Response:
        await self.may_answer.wait()
        return web.Response(text="at last")

    async def large(self, _request: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    @property
    def count(self) -> int:
        return len(self.monitor._connections.by_handler)

    async def get(self, path: str) -> bytes:
        url = f"http://{LOOPBACK}:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            assert reply.status == 200
            return await reply.read()


@pytest_asyncio.fixture
async def served() -> AsyncIterator[ServedMonitor]:
    served = ServedMonitor()
    await served.monitor.start()
    yield served
    await served.monitor.stop()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "IDLE_TIMEOUT", 0.2)


async def test_idle_connections_are_limited_and_the_page_answers(served: ServedMonitor) -> None:
    most = MAX_CONNECTIONS * BURST_FACTOR
    with ExitStack() as stack:
        for _ in range(most + 100):
            stack.enter_context(socket.create_connection((LOOPBACK, served.port)))
            await asyncio.sleep(0)
        await until(lambda: served.count <= most)
        assert b"pipeline_loaded" in await served.get("/health")
        assert served.count <= most


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("part", [b"", HEALTH[:30], HEALTH])
async def test_whoever_sends_no_further_request_is_cut_off(served: ServedMonitor, part: bytes) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
    writer.write(part)
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200") == (part == HEALTH)
    await until(lambda: served.count == 0)
    writer.close()


@pytest.mark.usefixtures("short")
async def test_whoever_does_not_read_its_answer_is_cut_off(served: ServedMonitor) -> None:
    with socket.create_connection((LOOPBACK, served.port)) as client:
        client.sendall(HEALTH.replace(b"health", b"large"))
        await until(lambda: served.count == 1)
        await until(lambda: served.count == 0)


@pytest.mark.usefixtures("short")
async def test_whoever_reads_slowly_gets_all_of_its_answer(served: ServedMonitor) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
    writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    received = 0
    while chunk := await reader.read(1 << 20):
        received += len(chunk)
        await asyncio.sleep(0.001)
    assert received > len(LARGE)
    writer.close()


@pytest.mark.usefixtures("short")
async def test_a_request_takes_the_time_it_takes(served: ServedMonitor) -> None:
    asked = asyncio.create_task(served.get("/slow"))
    done, _ = await asyncio.wait({asked}, timeout=0.6)
    assert not done
    served.may_answer.set()
    assert await asked == b"at last"
