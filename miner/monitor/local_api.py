"""POST /generate: an image or a sentence in, a PLY file out, for this machine only and after all validators' tasks."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError

from miner.config import GenerateSettings
from miner.monitor.server import error_response, is_loopback
from miner.tasks import PromptDecoder, Task, TaskRunner
from miner.words import plural
from pipeline import (
    UP_AXES,
    Cancelled,
    PipelineError,
    Prompt,
    PromptError,
    UpAxis,
)

FIELDS = ("prompt_image_file", "prompt", "seed", "up")
# Seconds in which a form must be complete.
BODY_TIMEOUT = 30.0
# Bytes of a form besides its fields' content.
MAX_OVERHEAD = 16 * 1024
# After every task of a validator, since those have a deadline or a stake.
PRIORITY = 0.0
# In the place of a validator's hotkey.
SENDER = "this machine"
SEEDS = 2**63
# Seconds after which a client that was refused may try again.
RETRY_LATER = {"Retry-After": "10"}


class InvalidForm(Exception):  # noqa: N818
    """A form that cannot be accepted, and the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        """Refuse a form with this message and status."""
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class LocalApi:
    """The route POST /generate, which runs one task at a time, and refuses all while there is no `runner`."""

    settings: GenerateSettings
    runner: TaskRunner | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _requests: int = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the route, for the server."""
        return [web.post("/generate", self.generate)]

    async def generate(self, request: web.Request) -> web.Response:
        """Return the PLY file, or JSON with the error and status 400, 403, 408, 413, 415, 500 or 503."""
        if request.remote is None or not is_loopback(request.remote):
            return error_response(403, "generation is for clients on the miner's own machine")
        runner = self.runner
        if runner is None:
            return error_response(503, "the miner is not ready", **RETRY_LATER)
        if self._requests >= self.settings.queue_size:
            waiting = plural(self._requests, "request")
            return error_response(503, f"the queue is full, with {waiting} waiting", **RETRY_LATER)
        self._requests += 1
        try:
            task = await self._read_task(request, runner)
            async with self._lock:
                if self.runner is None:
                    return error_response(503, "the miner is stopping")
                result = await self.runner.run(task)
        except InvalidForm as problem:
            return error_response(problem.status, str(problem))
        except PipelineError as problem:
            status = 400 if isinstance(problem, PromptError) else 503 if isinstance(problem, Cancelled) else 500
            return error_response(status, str(problem))
        finally:
            self._requests -= 1
        headers = {"X-Seed": str(result.asset.seed), "X-Gaussians": str(result.asset.gaussians)}
        return web.Response(body=result.data, content_type="application/octet-stream", headers=headers)

    async def _read_task(self, request: web.Request, runner: TaskRunner) -> Task:
        if request.content_type != "multipart/form-data":
            raise InvalidForm(f"send multipart/form-data with {', '.join(FIELDS)}", 415)
        form = await self._read_form(request)
        if ("prompt" in form) == ("prompt_image_file" in form):
            raise InvalidForm("send either prompt or prompt_image_file")
        seed = _parse_seed(form["seed"]) if "seed" in form else None
        up = _parse_up(form["up"]) if "up" in form else self.settings.up
        task_id = f"local-{time.time_ns():x}"
        try:
            prompt = await _decode_prompt(form, runner.decoder)
        except UnicodeDecodeError:
            raise InvalidForm("prompt is not UTF-8") from None
        except Exception as error:
            runner.decline(task_id, None, error)
            if isinstance(error, PipelineError):
                raise
            raise PipelineError("the prompt could not be decoded") from error
        return Task(task_id, prompt, PRIORITY, seed, "ply", up)

    async def _read_body(self, request: web.Request) -> StreamReader:
        """Return the whole body, which must keep within the limits of bytes and of time."""
        limit = self.settings.max_body_bytes
        body = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.content.iter_any():
                    body.feed_data(chunk)
                    if body.total_bytes > limit + MAX_OVERHEAD:
                        raise InvalidForm(f"the form has more than {limit} bytes", 413)
        except TimeoutError:
            raise InvalidForm(f"the form was not complete within {BODY_TIMEOUT:g} s", 408) from None
        body.feed_eof()
        return body

    async def _read_form(self, request: web.Request) -> dict[str, bytes]:
        """Return the fields by name; each may occur once, and all together must keep within the limit."""
        form: dict[str, bytes] = {}
        allowance = self.settings.max_body_bytes
        try:
            # Read whole, since aiohttp's reader of forms takes any number of bytes before, between and after fields.
            async for part in MultipartReader(request.headers, await self._read_body(request)):
                name = part.name if isinstance(part, BodyPartReader) else None
                if name not in FIELDS or not isinstance(part, BodyPartReader):
                    raise InvalidForm(f"there is no field {str(name)[:64]!r}; the fields are {', '.join(FIELDS)}")
                if name in form:
                    raise InvalidForm(f"the field {name} occurs twice")
                content = bytearray()
                while chunk := await part.read_chunk():
                    content += chunk
                    if len(content) > allowance:
                        raise InvalidForm(f"the form has more than {self.settings.max_body_bytes} bytes", 413)
                allowance -= len(content)
                form[name] = bytes(content)
        except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as problem:
            raise InvalidForm(f"the form cannot be read: {' '.join(str(problem).split())[:200]}") from None
        return form


async def _decode_prompt(form: Mapping[str, bytes], decoder: PromptDecoder) -> Prompt:
    if "prompt" in form:
        return await decoder.decode("text", form["prompt"].decode(), SENDER)
    return await decoder.decode_image(form["prompt_image_file"], SENDER)


def _parse_seed(text: bytes) -> int:
    if text.isdigit() and len(text) < 20 and (seed := int(text)) < SEEDS:
        return seed
    raise InvalidForm(f"seed must be a whole number from 0 to {SEEDS - 1}")


def _parse_up(text: bytes) -> UpAxis:
    for axis in UP_AXES:
        if text == axis.encode():
            return axis
    raise InvalidForm(f"up must be one of {', '.join(UP_AXES)}")
