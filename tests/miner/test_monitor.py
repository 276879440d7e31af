from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio

from miner.errors import OperatorError
from miner.localnet import LOOPBACK, free_port
from miner.monitor import Monitor, Status, installed_version

OK = Status(
    status="ok",
    pipeline_loaded=True,
    phase="phase3",
    queue=2,
    metagraph_age=12.5,
    last_success=1_700_000_000.0,
    uptime=60.0,
    counters=Counter(generated=3),
    version="1.2.3",
)


class Bench:
    def __init__(self) -> None:
        self.status = OK
        self.port = free_port()
        self.monitor = Monitor(lambda: self.status, LOOPBACK, self.port)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/health"


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.monitor.start()
    yield bench
    await bench.monitor.stop()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(LOOPBACK, bench.port)


async def test_a_miner_that_works(bench: Bench) -> None:
    async with aiohttp.ClientSession() as session, session.get(bench.url) as reply:
        assert (reply.status, reply.content_type, reply.headers["Cache-Control"]) == (
            200,
            "application/json",
            "no-store",
        )
        assert await reply.json() == {
            "status": "ok",
            "pipeline_loaded": True,
            "phase": "phase3",
            "queue": 2,
            "metagraph_age": 12.5,
            "last_success": 1_700_000_000.0,
            "uptime": 60.0,
            "counters": {"generated": 3},
            "service": "sn17-miner",
            "version": "1.2.3",
        }


@pytest.mark.parametrize("status", ["starting", "stopping"])
async def test_a_miner_that_does_not(bench: Bench, status: str) -> None:
    bench.status = replace(OK, status=status, last_success=None, metagraph_age=None)  # type: ignore[arg-type]
    async with aiohttp.ClientSession() as session, session.get(bench.url) as reply:
        assert reply.status == 503
        content = await reply.json()
        assert (content["status"], content["last_success"]) == (status, None)


async def test_each_request_sees_the_present(bench: Bench) -> None:
    async with aiohttp.ClientSession() as session:
        for queue in (0, 5):
            bench.status = replace(OK, queue=queue)
            async with session.get(bench.url) as reply:
                assert (await reply.json())["queue"] == queue


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/health", 405), ("GET", "/", 404), ("HEAD", "/health", 200)]
)
async def test_nothing_else_is_served(bench: Bench, method: str, path: str, status: int) -> None:
    url = bench.url.replace("/health", path)
    async with aiohttp.ClientSession() as session, session.request(method, url) as reply:
        assert reply.status == status


async def test_a_taken_port_is_the_operators_mistake(bench: Bench) -> None:
    with pytest.raises(OperatorError, match=rf"{bench.port}.*--monitor.port"):
        await Monitor(lambda: OK, LOOPBACK, bench.port).start()


async def test_a_host_that_is_not_ours_is_the_operators_mistake() -> None:
    with pytest.raises(OperatorError, match=r"203.0.113.7"):
        await Monitor(lambda: OK, "203.0.113.7", free_port()).start()


async def test_a_client_that_stays_connected_does_not_keep_us_from_stopping() -> None:
    bench = Bench()
    await bench.monitor.start()
    with socket.create_connection((LOOPBACK, bench.port)) as client:
        client.send(b"GET /health HTTP/1.1\r\n")
        await asyncio.wait_for(bench.monitor.stop(), 10)


def test_the_version_is_the_packages() -> None:
    assert installed_version() == "unknown" or installed_version()[0].isdigit()
