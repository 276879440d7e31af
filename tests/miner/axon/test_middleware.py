import asyncio
import json
import logging

import bittensor as bt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.axon.authentication import Authenticator, Caller, RequestRefused
from miner.axon.middleware import (
    LOG_INTERVAL,
    AuthMiddleware,
    LogInterval,
    Message,
    Receive,
    RefusalLog,
    Send,
    check_body,
    check_form,
    clean_scope,
    read_body,
    send_refusal,
)
from miner.config.settings import ServingSettings
from miner.localnet.raw_client import AxonAddress, signed_request
from miner.policy.policy import PolicyDecision
from miner.subnet.protocol import Generate
from tests.support.factories import raw_headers

HOTKEY = bt.Keypair.create_from_uri("//alice").ss58_address


def caller_of(request: Generate) -> Caller:
    return Caller(HOTKEY, 5, "session", "0x", request.body_hash)


def body_of(request: Generate, hotkey: str | None = HOTKEY) -> bytes:
    dendrite = bt.TerminalInfo(hotkey=hotkey)
    return request.model_copy(update={"dendrite": dendrite}).model_dump_json().encode()


def scope(method: str = "POST", path: str = "/Generate", **headers: str) -> Message:
    headers = {"content_type": "application/json"} | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"method": method, "path": path, "headers": raw, "query_string": b"x=y", "client": ("1.2.3.4", 5)}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (scope(path="/"), 404),
        (scope(path="/Synapse"), 404),
        (scope(path="/Generate/"), 404),
        (scope(path="/docs"), 404),
        (scope(method="GET"), 405),
        (scope(content_type="text/plain"), 415),
        (scope(content_type="application/json-seq"), 415),
        (scope(content_length="101"), 413),
    ],
)
def test_what_the_first_lines_tell(request_: Message, status: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        check_form(request_, 100)
    assert caught.value.status == status


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_request_in_form(content_type: str) -> None:
    check_form(scope(content_type=content_type, content_length="100"), 100)
    check_form(scope(content_type=content_type), 100)


class Wire:
    """The server's end of a connection: messages to receive, then silence; what was sent."""

    def __init__(self, *messages: Message) -> None:
        self.incoming = list(messages)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.incoming:
            raise TimeoutError
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_parts() -> None:
    assert await read_body(Wire(part(b"ab"), part(b""), part(b"c", more=False)).receive, 3, 9) == b"abc"


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([part(b"ab"), part(b"cd")], 413),
        ([part(b"abcd", more=False)], 413),
        ([part(b"ab"), {"type": "http.disconnect"}], 400),
        ([part(b"ab")], 408),
    ],
)
async def test_bodies_that_are_not_taken(messages: list[Message], status: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        await read_body(Wire(*messages).receive, 3, 9)
    assert caught.value.status == status


def test_what_was_signed_and_the_caller_are_kept_and_nothing_else() -> None:
    request = Generate(prompt="aGk=", seed=3, data_format="ply", results="forged", error="forged", gaussians=9)
    request.axon.status_code = 418
    checked = check_body(body_of(request), caller_of(request))
    assert (checked.prompt, checked.seed, checked.data_format) == ("aGk=", 3, "ply")
    assert (checked.dendrite.hotkey, checked.dendrite.nonce) == (HOTKEY, 5)
    assert (checked.results, checked.error, checked.gaussians, checked.axon.status_code) == ("", "", 0, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"dendrite":' * 1000 + b"1" + b"}" * 1000, 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"seed": -1}', 400),
        (b'{"seed": 1e400}', 400),
        (b'{"task_type": "video"}', 400),
        (b"{}", 401),
        (body_of(Generate(prompt="a"), None), 401),
        (body_of(Generate(prompt="a"), "5Other"), 401),
        (body_of(Generate(prompt="b")), 400),
        (body_of(Generate(prompt="a"))[:-1] + b', "prompt": "b"}', 400),
    ],
)
def test_bodies_that_are_refused(body: bytes, status: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        check_body(body, caller_of(Generate(prompt="a")))
    assert caught.value.status == status
    assert len(str(caught.value)) < 200


def test_a_sentence_may_have_1024_characters() -> None:
    request = Generate(task_type="text", prompt="x" * 1024)
    assert check_body(body_of(request), caller_of(request)).prompt == request.prompt
    request = Generate(task_type="text", prompt="x" * 1025)
    with pytest.raises(RequestRefused, match="1024") as caught:
        check_body(body_of(request), caller_of(request))
    assert caught.value.status == 413


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_no_body_does_more_than_be_refused(body: bytes | str) -> None:
    with pytest.raises(RequestRefused):
        check_body(body if isinstance(body, bytes) else body.encode(), caller_of(Generate()))


def test_the_sdk_sees_only_the_headers_that_were_checked() -> None:
    caller = Caller(HOTKEY, 5, "session", "0x12", "ab")
    clean = clean_scope(scope(host="evil/Synapse?", x_bt_header_dendrite_hotkey="5Forged"), caller)
    assert clean["query_string"] == b""
    names = [name for name, _ in clean["headers"]]
    assert len(names) == len(set(names)) == 6
    assert (b"bt_header_dendrite_hotkey", HOTKEY.encode()) in clean["headers"]


async def test_a_refusal_is_json_that_the_sdks_client_reads_and_ends_the_connection() -> None:
    wire = Wire(part(b"still"), part(b"sending", more=False))
    await send_refusal(RequestRefused(429, "slower", retry_after=7), wire.receive, wire.send)
    start, body, end = wire.sent
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"7"
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"]) == {"message": "slower"}
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"])
    assert not end.get("more_body", False)
    assert wire.incoming == []


@pytest.mark.parametrize("client_stays", [True, False])
async def test_an_application_that_fails_or_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, client_stays: bool
) -> None:
    """Neither passes in silence, and the place in the queue is free again."""
    stopped = asyncio.Event()

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        if client_stays:
            raise RuntimeError("broken")
        try:
            # On Python 3.11 this loses a cancellation that comes together with what it waits for.
            await asyncio.wait_for(receive(), 60)
            await asyncio.Event().wait()
        finally:
            stopped.set()

    class Client(Wire):
        async def receive(self) -> Message:
            if self.incoming:
                return self.incoming.pop(0)
            if client_stays:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

    settings, keypair = ServingSettings(queue_size=1, per_validator=1), bt.Keypair.create_from_uri("//alice")
    authenticator = Authenticator(HOTKEY, lambda hotkey: PolicyDecision(True, ""), settings)
    middleware = AuthMiddleware(application, authenticator, settings)
    call = signed_request(keypair, Generate(prompt="a"))
    admitted: list[bool] = []
    state = {"admitted": lambda: admitted.append(True), "answering": lambda: None}
    request = {**scope(), "type": "http", "headers": raw_headers(call, AxonAddress(1, HOTKEY)), "state": state}
    with caplog.at_level(logging.WARNING, "miner.axon.middleware"):
        if client_stays:
            with pytest.raises(RuntimeError, match="broken"):
                await middleware(request, Client(part(call.body, more=False)).receive, Wire().send)
        else:
            await asyncio.wait_for(middleware(request, Client(part(call.body, more=False)).receive, Wire().send), 10)
            assert stopped.is_set()
    (line,) = caplog.messages
    assert ("could not be answered" if client_stays else "hung up") in line
    assert HOTKEY in line
    assert admitted == [True]
    with authenticator.reserve(HOTKEY):
        pass


def test_a_thousand_refusals_are_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = RefusalLog(LogInterval(lambda: now))
    with caplog.at_level(logging.WARNING, "miner.axon.middleware"):
        for _ in range(1000):
            refusals.record(RequestRefused(403, "no", "the operator's reason"), "1.2.3.4", "5x\nforged line")
        now = LOG_INTERVAL
        refusals.record(RequestRefused(401, "who?"), "1.2.3.4", "")
    first, second = caplog.messages
    assert "Refused a request from 5x?forged?line at 1.2.3.4: HTTP 403, the operator's reason" in first
    assert "1.2.3.4: HTTP 401, who? (1000 refusals since" in second
    assert refusals.counters == {"refused_403": 1000, "refused_401": 1}
