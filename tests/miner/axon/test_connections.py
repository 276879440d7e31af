"""Clients that send, read or wait as they should not, and pushed tasks at a stop."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import bittensor as bt
import pytest

from miner.axon import server as server_module
from miner.errors import MinerError
from miner.localnet.raw_client import AxonAddress, RawRequest, connect, send, signed_request
from miner.localnet.validator import LOOPBACK
from miner.subnet.protocol import Generate
from pipeline import Asset, OnStep, Request
from tests.support.generated import make_asset
from tests.support.miner_parts import HeldGeneration
from tests.support.serving import SETTINGS, ServingMiner, ask
from tests.support.waiting import TIMEOUT, until


async def test_a_refused_client_that_is_still_sending_learns_why(
    miner: ServingMiner, wallets: dict[str, bt.Wallet]
) -> None:
    answer = await ask(miner, wallets["validator"], Generate(prompt="A" * 900_000))
    assert answer.dendrite.status_code == 413
    assert "longer than 500000 bytes" in answer.dendrite.status_message


@pytest.mark.parametrize("part", [b"POST /Generate HTTP/1.1\r\nhost: ", b""])
async def test_whoever_does_not_finish_its_headers_is_cut_off(miner: ServingMiner, part: bytes) -> None:
    async with connect(miner.address) as (reader, writer), asyncio.timeout(TIMEOUT):
        writer.write(part)
        assert await reader.read() == b""
    assert len(miner.server.unauthenticated) == 0


async def test_an_admitted_connection_is_no_longer_limited(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """Unauthenticated connections cannot push it out, nor does the time limit of headers apply to its generation."""
    miner.generate = held = HeldGeneration()
    asked = asyncio.create_task(ask(miner, wallets["validator"], Generate(prompt=image_base64)))
    await held.begins()
    assert len(miner.server.unauthenticated) == 0
    async with connect(miner.address) as (reader, _), asyncio.timeout(TIMEOUT):
        await until(lambda: len(miner.server.unauthenticated) == 1)
        assert await reader.read() == b""
    held.release()
    assert (await asked).results


@asynccontextmanager
async def slow_reader(address: AxonAddress, call: RawRequest) -> AsyncIterator[socket.socket]:
    """A connection over which a request was sent, and whose answer hardly fits the buffers."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (LOOPBACK, address.port))
        await loop.sock_sendall(client, call.head(address) + call.body)
        yield client


def large(request: Request, on_step: OnStep) -> Asset:
    return make_asset(request, 150_000)


async def test_whoever_does_not_take_its_answer_loses_its_place(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    miner.generate = large
    request = Generate(prompt=image_base64, data_format="ply")
    authenticator = miner.server._middleware.authenticator
    async with AsyncExitStack() as stack:
        for _ in range(SETTINGS.queue_size + 1):
            call = signed_request(wallets["validator"].hotkey, request)
            await stack.enter_async_context(slow_reader(miner.address, call))
        await until(lambda: authenticator.in_progress == SETTINGS.queue_size + 1)
        assert await send(miner.address, signed_request(wallets["validator"].hotkey, request)) == "503"
        await until(lambda: authenticator.in_progress == 0)
        assert (await ask(miner, wallets["validator"], request)).results


async def test_validators_that_hang_up_are_one_line(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of their task, or while its answer is on its way."""
    authenticator = miner.server._middleware.authenticator
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            miner.generate = held = HeldGeneration()
            async with slow_reader(
                miner.address, signed_request(wallets["validator"].hotkey, Generate(prompt=image_base64))
            ):
                await held.begins()
            await until(lambda: authenticator.in_progress == 0)
            held.release()
        miner.generate = large
        call = signed_request(wallets["validator"].hotkey, Generate(prompt=image_base64, data_format="ply"))
        async with slow_reader(miner.address, call) as client:
            assert await asyncio.get_running_loop().sock_recv(client, 12) == b"HTTP/1.1 200"
        await until(lambda: authenticator.in_progress == 0)
    (record,) = caplog.records
    assert "hung up; its request is cancelled" in record.message
    assert record.exc_info is None


async def test_a_stop_lets_pushed_tasks_be_answered(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    miner.generate = held = HeldGeneration()
    asked = asyncio.create_task(ask(miner, wallets["validator"], Generate(prompt=image_base64)))
    await held.begins()
    stopping = asyncio.create_task(miner.server.stop(TIMEOUT))
    await until(lambda: not miner.server._is_listening)
    assert not stopping.done()
    held.release()
    assert (await asked).results
    await asyncio.wait_for(stopping, TIMEOUT)


async def test_a_stop_waits_no_longer_than_it_was_told(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, caplog: pytest.LogCaptureFixture
) -> None:
    miner.generate = held = HeldGeneration()
    asked = asyncio.create_task(ask(miner, wallets["validator"], Generate(prompt=image_base64)))
    await held.begins()
    with caplog.at_level(logging.INFO, "miner.axon"):
        await asyncio.wait_for(miner.server.stop(0.2), TIMEOUT)
    assert caplog.messages[-2:] == [
        "Finishing 1 pushed task in hand, within 0 s",
        "1 pushed task not answered when we stopped",
    ]
    held.release()
    await asked


async def test_a_server_that_was_stopped_is_no_failure(miner: ServingMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WATCH_INTERVAL", 0.01)
    watching = asyncio.create_task(miner.server.watch())
    await miner.server.stop()
    await asyncio.wait_for(watching, TIMEOUT)


async def test_a_server_that_ends_by_itself_is_noticed(miner: ServingMiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WATCH_INTERVAL", 0.01)
    watching = asyncio.create_task(miner.server.watch())
    done, _ = await asyncio.wait([watching], timeout=0.1)
    assert not done
    miner.server.axon.stop()
    with pytest.raises(MinerError, match="ended by itself"):
        await asyncio.wait_for(watching, TIMEOUT)
