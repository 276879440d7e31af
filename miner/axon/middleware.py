"""The ASGI gate before the SDK's application: nothing reaches it, and no body is read, before the caller is admitted.

The SDK reads bodies of any size, checks nobody's body against the signed headers' hotkey, lets old nonces pass and
serves a second route. It gets one clean request at a time from here: the headers and the body that were checked, no
others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import bittensor as bt
from pydantic import ValidationError

from miner.axon.authentication import Authenticator, Caller, RequestRefused
from miner.config.settings import ServingSettings
from miner.cli.generate import shown
from miner.subnet.protocol import Generate
from pipeline.conditioning.prompt import MAX_TEXT_LENGTH

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

PATH = f"/{Generate.__name__}"
# A client that is still sending gets this many seconds to see that it was refused.
LINGER = 2.0
# UnauthenticatedConnections may be refused thousands of times a second; the log gets a line for each that many seconds.
LOG_INTERVAL = 60.0
CLOSE = (b"connection", b"close")

# The hotkey that the gate has verified and admitted, for whoever answers this request.
admitted_hotkey: ContextVar[str | None] = ContextVar("admitted_hotkey", default=None)


def check_form(scope: Message, max_body_bytes: int) -> None:
    """Raises RequestRefused for what the first lines of a request already tell: 404, 405, 413, 415."""
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
    """The body. Raises RequestRefused if it is too long (413), too slow (408) or breaks off (400)."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise RequestRefused(400, "the body breaks off")
                body += message.get("body", b"")
                if len(body) > max_body_bytes:
                    raise RequestRefused(413, f"the body is longer than {max_body_bytes} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestRefused(408, f"the body was not complete within {seconds:g} s") from None


def check_body(body: bytes, caller: Caller) -> Generate:
    """The request, if it is what the caller signed. Raises RequestRefused: 400, 401 for another's hotkey, 413 for a prompt.

    It holds what was signed and the caller, nothing else: a body may set status codes and results, too.
    """
    try:
        request = Generate.model_validate_json(body)
        body_hash = request.body_hash
    except ValidationError as invalid:
        problem = invalid.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RequestRefused(400, f"the body is no {Generate.__name__}: {shown(where)}: {problem['msg']}") from None
    except (TypeError, ValueError) as error:
        raise RequestRefused(400, f"the body is no {Generate.__name__}: {type(error).__name__}") from None
    if request.dendrite is None or request.dendrite.hotkey != caller.hotkey:
        raise RequestRefused(401, "the hotkey in the body is not the one that signed the headers")
    if body_hash != caller.body_hash:
        raise RequestRefused(400, "the body is not the one that was signed")
    if request.task_type == "text" and len(request.prompt.strip()) > MAX_TEXT_LENGTH:
        raise RequestRefused(413, f"the prompt is longer than {MAX_TEXT_LENGTH} characters")
    signed = {field: getattr(request, field) for field in Generate.required_hash_fields}
    return Generate(**signed, dendrite=bt.TerminalInfo(hotkey=caller.hotkey, nonce=caller.nonce, uuid=caller.session))


class RefusalLog:
    """Counts refusals and tells the log of them, however many there are, once in a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._untold = 0
        self._told_at = -LOG_INTERVAL

    def note(self, refusal: RequestRefused, address: str, hotkey: str) -> None:
        """`hotkey` is what the sender says it is, "" if it says nothing."""
        self.counters[f"refused {refusal.status}"] += 1
        self._untold += 1
        now = self._clock()
        if now - self._told_at < LOG_INTERVAL:
            return
        more = f" ({self._untold} refusals since the last such line)" if self._untold > 1 else ""
        reason = refusal.detail or str(refusal)
        who = f"{shown(hotkey)} at {shown(address)}" if hotkey else shown(address)
        log.warning("RequestRefused a request of %s: HTTP %d, %s%s", who, refusal.status, reason, more)
        self._untold, self._told_at = 0, now


class AuthMiddleware:
    """An ASGI application in front of another one."""

    def __init__(self, app: Application, admission: Authenticator, settings: ServingSettings) -> None:
        self._app = app
        self._admission = admission
        self._settings = settings
        self.refusals = RefusalLog()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse the request, or have the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings, hotkey = self._settings, ""
        try:
            check_form(scope, settings.max_body_bytes)
            caller = Caller.read(scope["headers"])
            hotkey = caller.hotkey
            self._admission.admit(caller)
            with self._admission.room(hotkey):
                scope["state"]["admitted"]()
                body = await read_body(receive, settings.max_body_bytes, settings.body_timeout)
                request = check_body(body, caller)
                del body
                await self._pass_on(clean_scope(scope, caller), request, receive, send)
        except RequestRefused as refusal:
            self.refusals.note(refusal, scope["client"][0] if scope["client"] else "", hotkey)
            await refuse(refusal, receive, send)

    async def _pass_on(self, scope: Message, request: Generate, receive: Receive, send: Send) -> None:
        """Let the application answer; stop it when the caller hangs up."""
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
                message = {**message, "headers": [*message.get("headers", []), CLOSE]}
            elif message["type"] == "http.response.body":
                answered = not message.get("more_body", False)
            await send(message)

        async def wait_for_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        hotkey = str(request.dendrite.hotkey)
        admitted_hotkey.set(hotkey)
        del request
        answer = asyncio.create_task(self._app(scope, receive_checked, send_closing))
        end = asyncio.create_task(wait_for_end())
        try:
            await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
            if answered:
                ended.set()
            elif not answer.done():
                log.warning("Validator %s hung up; what it asked for need not be made any more", shown(hotkey))
                answer.cancel()
            await asyncio.wait({answer})
            if not answer.cancelled() and (error := answer.exception()) is not None:
                # The server's own log is silent, as the SDK sets it up.
                log.error("A request of validator %s could not be answered", shown(hotkey), exc_info=error)
                raise error
        finally:
            answer.cancel()
            end.cancel()


def clean_scope(scope: Message, caller: Caller) -> Message:
    """The request as the SDK may see it: it takes headers that merely resemble its own for its own."""
    headers = [(b"content-type", b"application/json"), *caller.headers()]
    return {**scope, "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "headers": headers}


async def refuse(refusal: RequestRefused, receive: Receive, send: Send) -> None:
    """Answer as the SDK does, so that its client understands."""
    content = json.dumps({"message": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)), CLOSE]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    # Closing while the client still sends would reset the connection, and with it what we have just said.
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body"})
