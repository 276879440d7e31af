"""The ASGI middleware in front of the SDK's application: no body is read before its sender has been admitted.

The SDK reads bodies of any size, does not compare the hotkey in a body with the one that signed the headers, accepts
old nonces and serves a second route. Behind this middleware it gets one clean request at a time: the headers and the
body that were checked, and nothing else.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import bittensor as bt
from pydantic import ValidationError

from miner.axon.authentication import Authenticator, Caller, RequestRefused
from miner.config import ServingSettings
from miner.runtime import sanitise_name
from miner.subnet.protocol import Generate
from pipeline import MAX_TEXT_LENGTH

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

PATH = f"/{Generate.__name__}"
# Seconds in which a client that is still sending can read that it was refused.
LINGER = 2.0
# Requests may be refused thousands of times a second; this many seconds lie between two log lines about it.
LOG_INTERVAL = 60.0
CLOSE_HEADER = (b"connection", b"close")

# The hotkey that the middleware has admitted for the request that is being answered.
admitted_hotkey: ContextVar[str | None] = ContextVar("admitted_hotkey", default=None)


def check_form(scope: Message, max_body_bytes: int) -> None:
    """Raise RequestRefused for a wrong path (404), method (405), length (413) or content type (415)."""
    if scope["path"] != PATH:
        raise RequestRefused(404, f"this miner answers {PATH} only")
    if scope["method"] != "POST":
        raise RequestRefused(405, f"{PATH} takes POST only")
    headers = {name.lower(): value for name, value in scope["headers"]}
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/json":
        raise RequestRefused(415, "the body must be application/json")
    if int(headers.get(b"content-length", b"0")) > max_body_bytes:
        raise RequestRefused(413, f"the body is longer than {max_body_bytes} bytes")


async def read_body(receive: Receive, max_body_bytes: int, seconds: float) -> bytes:
    """Return the body. Raises RequestRefused if it is too long (413), takes too long (408) or is incomplete (400)."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise RequestRefused(400, "the body is incomplete")
                body += message.get("body", b"")
                if len(body) > max_body_bytes:
                    raise RequestRefused(413, f"the body is longer than {max_body_bytes} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestRefused(408, f"the body was not complete within {seconds:g} s") from None


def check_body(body: bytes, caller: Caller) -> Generate:
    """Return the request that the caller signed, with the signed fields and the caller only.

    Other fields are dropped, since a body may also set status codes and results. Raises RequestRefused if the body is
    malformed or not the signed one (400), names another hotkey (401), or has too long a prompt (413).
    """
    try:
        request = Generate.model_validate_json(body)
        body_hash = request.body_hash
    except ValidationError as invalid:
        problem = invalid.errors(include_input=False, include_url=False)[0]
        where = sanitise_name(".".join(str(part) for part in problem["loc"]))
        raise RequestRefused(400, f"the body is not a {Generate.__name__}: {where}: {problem['msg']}") from None
    except (TypeError, ValueError) as error:
        raise RequestRefused(400, f"the body is not a {Generate.__name__}: {type(error).__name__}") from None
    if request.dendrite is None or request.dendrite.hotkey != caller.hotkey:
        raise RequestRefused(401, "the hotkey in the body is not the one that signed the headers")
    if body_hash != caller.body_hash:
        raise RequestRefused(400, "the body is not the one that was signed")
    if request.task_type == "text" and len(request.prompt.strip()) > MAX_TEXT_LENGTH:
        raise RequestRefused(413, f"the prompt is longer than {MAX_TEXT_LENGTH} characters")
    signed = {field: getattr(request, field) for field in Generate.required_hash_fields}
    return Generate(**signed, dendrite=bt.TerminalInfo(hotkey=caller.hotkey, nonce=caller.nonce, uuid=caller.session))


@dataclass(eq=False)
class LogInterval:
    """Tells when to log what strangers can provoke: every LOG_INTERVAL seconds of `clock` at most."""

    clock: Callable[[], float] = time.monotonic
    _unlogged: int = 0
    _logged_at: float = -LOG_INTERVAL

    def count(self) -> int:
        """Count an event; return how many there were since the last line if one is due, else 0."""
        self._unlogged += 1
        now = self.clock()
        if now - self._logged_at < LOG_INTERVAL:
            return 0
        events, self._unlogged, self._logged_at = self._unlogged, 0, now
        return events


@dataclass(eq=False)
class RefusalLog:
    """Counters of refused requests, and now and then a log line about them."""

    interval: LogInterval = field(default_factory=LogInterval)
    counters: Counter[str] = field(default_factory=Counter)

    def record(self, refusal: RequestRefused, address: str, hotkey: str) -> None:
        """Count a refusal; `hotkey` is the one that the sender claims, "" if it claims none."""
        self.counters[f"refused_{refusal.status}"] += 1
        refusals = self.interval.count()
        if not refusals:
            return
        others = f" ({refusals} refusals since the last such line)" if refusals > 1 else ""
        reason = refusal.detail or str(refusal)
        sender = f"{sanitise_name(hotkey)} at {sanitise_name(address)}" if hotkey else sanitise_name(address)
        log.warning("Refused a request from %s: HTTP %d, %s%s", sender, refusal.status, reason, others)


@dataclass(eq=False)
class AuthMiddleware:
    """Lets admitted requests through to `app`; the server must put two callbacks into each request's state.

    `admitted` is called once its sender is known and allowed, `answering` before the first byte of any answer.
    """

    app: Application
    authenticator: Authenticator
    settings: ServingSettings
    refusals: RefusalLog = field(default_factory=RefusalLog)
    hang_ups: LogInterval = field(default_factory=LogInterval)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse the request, or have the application answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        settings, hotkey = self.settings, ""

        async def send_in_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["answering"]()
            await send(message)

        try:
            check_form(scope, settings.max_body_bytes)
            caller = Caller.from_headers(scope["headers"])
            hotkey = caller.hotkey
            self.authenticator.admit(caller)
            with self.authenticator.reserve(hotkey):
                scope["state"]["admitted"]()
                body = await read_body(receive, settings.max_body_bytes, settings.body_timeout)
                request = check_body(body, caller)
                del body  # up to 16 MB, while the request waits for its generation
                await self._forward(clean_scope(scope, caller), request, receive, send_in_time)
        except RequestRefused as refusal:
            self.refusals.record(refusal, scope["client"][0] if scope["client"] else "", hotkey)
            await send_refusal(refusal, receive, send_in_time)

    async def _forward(self, scope: Message, request: Generate, receive: Receive, send: Send) -> None:
        """Have the application answer, and cancel it if the caller hangs up."""
        unread = [request.model_dump_json().encode()]
        ended, answered = asyncio.Event(), False

        async def receive_checked() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send_closing(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), CLOSE_HEADER]}
            elif message["type"] == "http.response.body":
                answered = not message.get("more_body", False)
            await send(message)

        async def wait_for_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        hotkey = str(request.dendrite.hotkey)
        admitted_hotkey.set(hotkey)
        del request
        answer = asyncio.create_task(self.app(scope, receive_checked, send_closing))
        disconnect = asyncio.create_task(wait_for_disconnect())
        try:
            await asyncio.wait({answer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if answered:
                ended.set()
            elif not answer.done():
                self._log_hang_up(hotkey)
                answer.cancel()
                # The SDK raises an error of its own when it is cancelled.
                await asyncio.gather(answer, return_exceptions=True)
                return
            await asyncio.wait({answer})
            if not answer.cancelled() and (error := answer.exception()) is not None:
                # The SDK turns off the log of its server.
                log.error("A request of validator %s could not be answered", sanitise_name(hotkey), exc_info=error)
                raise error
        finally:
            answer.cancel()
            disconnect.cancel()

    def _log_hang_up(self, hotkey: str) -> None:
        if count := self.hang_ups.count():
            others = f" ({count} hung up since the last such line)" if count > 1 else ""
            log.warning("Validator %s hung up; its request is cancelled%s", sanitise_name(hotkey), others)


def clean_scope(scope: Message, caller: Caller) -> Message:
    """Return the scope with the checked headers only, since the SDK also reads headers that merely resemble its own."""
    headers = [(b"content-type", b"application/json"), *caller.to_headers()]
    return {**scope, "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "headers": headers}


async def send_refusal(refusal: RequestRefused, receive: Receive, send: Send) -> None:
    """Answer with the refusal, as JSON that the SDK's client understands, and let the client read it."""
    content = json.dumps({"message": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)), CLOSE_HEADER]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    # Closing while the client still sends would reset the connection, and the answer would be lost.
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body"})
