import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import bittensor as bt
import pytest
from aiohttp import web
from bittensor.utils import networking

from miner.localnet.validator import LOOPBACK, LocalValidator, free_port, make_wallet
from miner.subnet.dendrite import Dendrite, Reply
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import PullTask

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def axon(handler: Handler) -> AsyncIterator[Neuron]:
    """Something that answers as the handler does."""
    application = web.Application()
    application.router.add_post("/PullTask", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, LOOPBACK, port).start()
    yield Neuron(uid=0, hotkey="5Validator", coldkey="c", ip=LOOPBACK, port=port)
    await runner.cleanup()


async def pull(wallet: bt.Wallet, handler: Handler, timeout: float = 20.0) -> Reply[PullTask]:  # noqa: ASYNC109
    dendrite = Dendrite(wallet.hotkey)
    async with axon(handler) as neuron:
        reply = await dendrite.exchange(neuron, PullTask(), timeout)
        await dendrite.aclose_session()
    return reply


def answering(status: int = 200, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"cooldown_until": 7}, status=status, headers=headers)

    return answer


async def hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def never_answer(request: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


def test_nobody_is_asked_for_our_own_address(wallets: dict[str, bt.Wallet], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise AssertionError("a look-up on the internet")

    monkeypatch.setattr(networking, "get_external_ip", refuse)
    Dendrite(wallets["miner"].hotkey)


@pytest.mark.parametrize(
    ("date", "unix"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 784111777.0),
        ("yesterday", None),
        ("Sun, 06 Nov 1994 10:49:37 +0200", 784111777.0),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        ("", None),
    ],
)
async def test_the_other_sides_clock_is_read(wallets: dict[str, bt.Wallet], date: str, unix: float | None) -> None:
    reply = await pull(wallets["miner"], answering(Date=date))
    assert (reply.synapse.cooldown_until, reply.date) == (7, unix)


@pytest.mark.parametrize(
    ("handler", "delivered"),
    [
        (answering(200), True),
        (answering(500), True),
        (answering(503), True),
        (answering(400), False),
        (answering(401), False),
        (answering(403), False),
        (answering(404), False),
        (hang_up, True),
    ],
)
async def test_what_may_have_had_an_effect_is_told_from_what_has_not(
    wallets: dict[str, bt.Wallet], handler: Handler, delivered: bool
) -> None:
    assert (await pull(wallets["miner"], handler)).delivered is delivered


async def test_a_time_out_may_have_had_an_effect(wallets: dict[str, bt.Wallet]) -> None:
    reply = await pull(wallets["miner"], never_answer, timeout=0.1)
    assert (reply.delivered, reply.date) == (True, None)
    assert reply.synapse.dendrite.status_message == "no answer within 0.1 s"


async def test_where_nobody_listens_nothing_was_delivered(wallets: dict[str, bt.Wallet]) -> None:
    dendrite = Dendrite(wallets["miner"].hotkey)
    nobody = Neuron(uid=0, hotkey="5Validator", coldkey="c", ip=LOOPBACK, port=free_port())
    reply = await dendrite.exchange(nobody, PullTask(), 5.0)
    await dendrite.aclose_session()
    assert not reply.delivered
    assert reply.synapse.dendrite.status_message == f"no connection to {LOOPBACK} port {nobody.port}"


async def test_one_exchange_does_not_colour_the_next(wallets: dict[str, bt.Wallet]) -> None:
    dendrite = Dendrite(wallets["miner"].hotkey)
    nobody = Neuron(uid=0, hotkey="5Validator", coldkey="c", ip=LOOPBACK, port=free_port())
    async with axon(answering(Date="Sun, 06 Nov 1994 08:49:37 GMT")) as neuron:
        replies = [await dendrite.exchange(whom, PullTask(), 5.0) for whom in (neuron, nobody, neuron)]
        await dendrite.aclose_session()
    assert [(reply.delivered, reply.date is not None) for reply in replies] == [
        (True, True),
        (False, False),
        (True, True),
    ]


async def test_each_request_has_a_connection_of_its_own(wallets: dict[str, bt.Wallet]) -> None:
    """Validators close connections that were idle for five seconds, just when a submission may come."""
    ports = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.json_response({})

    dendrite = Dendrite(wallets["miner"].hotkey)
    async with axon(answer) as neuron:
        replies = [await dendrite.exchange(neuron, PullTask(), 5.0) for _ in range(3)]
        await dendrite.aclose_session()
    assert [reply.delivered for reply in replies] == [True] * 3
    assert len(set(ports)) == 3


async def test_an_axon_at_an_ipv6_address_is_reached(wallets: dict[str, bt.Wallet]) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    application = web.Application()
    application.router.add_post("/PullTask", answering())
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    dendrite = Dendrite(wallets["miner"].hotkey)
    neuron = Neuron(uid=0, hotkey="5Validator", coldkey="c", ip="::1", port=listener.getsockname()[1])
    reply = await dendrite.exchange(neuron, PullTask(), 5.0)
    await dendrite.aclose_session()
    await runner.cleanup()
    assert (reply.synapse.cooldown_until, reply.delivered) == (7, True)


@pytest.mark.parametrize("ip", ["", "no address", "::1::", "1.2.3", "[::1]", "http://evil/", "127.0.0.1@evil", "\n"])
async def test_an_address_that_is_none_is_not_serving_and_nothing_is_delivered_there(
    wallets: dict[str, bt.Wallet], ip: str
) -> None:
    neuron = Neuron(uid=0, hotkey="5Validator", coldkey="c", ip=ip, port=1)
    assert not neuron.is_serving
    dendrite = Dendrite(wallets["miner"].hotkey)
    reply = await dendrite.exchange(neuron, PullTask(), 5.0)
    await dendrite.aclose_session()
    assert not reply.delivered
    assert not reply.connected


@pytest.mark.parametrize(
    ("ip", "port", "serves"),
    [("10.0.0.1", 8091, True), ("::1", 8091, True), ("0.0.0.0", 8091, False), ("::", 8091, False),
     ("10.0.0.1", 0, False), ("10.0.0.1", -1, False), ("10.0.0.1", 65536, False)],
)  # fmt: skip
def test_who_serves_an_axon(ip: str, port: int, serves: bool) -> None:
    assert Neuron(uid=0, hotkey="5V", coldkey="c", ip=ip, port=port).is_serving is serves


@pytest.mark.parametrize("step", [0.5, 3600.0, 800 * 86_400.0])
async def test_a_clock_that_was_ahead_does_not_keep_validators_from_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    wall = time.time_ns
    # The SDK's own server, which takes no nonce twice from one session, and none below the last.
    validator = LocalValidator(make_wallet(tmp_path, "validator"), free_port(), lambda _: True)
    neuron = Neuron(uid=0, hotkey=validator.hotkey, coldkey="c", ip=LOOPBACK, port=validator.port)
    dendrite = Dendrite(make_wallet(tmp_path, "miner").hotkey)
    await validator.start()
    statuses = []
    for ahead in (step, step, 0.0, 0.0):
        monkeypatch.setattr(time, "time_ns", lambda ahead=ahead: wall() + int(ahead * 1e9))
        reply = await dendrite.exchange(neuron, PullTask(), 10.0)
        statuses.append(reply.synapse.dendrite.status_code)
    await dendrite.aclose_session()
    await validator.stop()
    assert statuses == [200] * 4
