"""POST /generate: a picture or a sentence in, a PLY out, for this machine only and after all validators' tasks."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from miner.config.settings import GenerateSettings
from miner.monitor.server import error, is_loopback
from miner.tasks.task import Result, Task
from pipeline import Cancelled, PipelineError, PromptError

FIELDS = ("prompt_image_file", "prompt", "seed")
# Behind every task that a validator waits for: those have a deadline or a stake.
PRIORITY = 0.0
SEEDS = 2**63
# Seconds after which a client whom we could not serve may try again.
RETRY_AFTER = "10"


class BadForm(Exception):  # noqa: N818
    """The form is not what we take."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


Run = Callable[[Task], Awaitable[Result]]


class LocalApi:
    """Hands forms to `run` one at a time; `run` is that of TaskRunner, None while there is none that works."""

    def __init__(self, run: Callable[[], Run | None], settings: GenerateSettings) -> None:
        self._run = run
        self._settings = settings
        self._turn = asyncio.Lock()
        self._present = 0

    def routes(self) -> list[web.RouteDef]:
        """For the server."""
        return [web.post("/generate", self.generate)]

    async def generate(self, request: web.Request) -> web.Response:
        """The PLY's bytes, or JSON with the error: 400, 403, 413, 415, 500, 503."""
        if request.remote is None or not is_loopback(request.remote):
            return error(403, "generation is for clients on the miner's own machine")
        if self._run() is None:
            return error(503, "the miner is not ready", **{"Retry-After": RETRY_AFTER})
        if self._present >= self._settings.queue_size:
            waiting = f"{self._present} requests wait already"
            return error(503, waiting, **{"Retry-After": RETRY_AFTER})
        self._present += 1
        try:
            task = await self._read(request)
            async with self._turn:
                run = self._run()
                if run is None:
                    return error(503, "the miner is stopping")
                result = await run(task)
        except BadForm as problem:
            return error(problem.status, str(problem))
        except PromptError as problem:
            return error(400, str(problem))
        except Cancelled as problem:
            return error(503, str(problem))
        except PipelineError as problem:
            return error(500, str(problem))
        finally:
            self._present -= 1
        headers = {"X-Seed": str(result.asset.seed), "X-Gaussians": str(len(result.asset.splats))}
        return web.Response(body=result.data, content_type="application/octet-stream", headers=headers)

    async def _read(self, request: web.Request) -> Task:
        if request.content_type != "multipart/form-data":
            raise BadForm(f"send multipart/form-data with {', '.join(FIELDS)}", 415)
        form = await self._fields(request)
        if ("prompt" in form) == ("prompt_image_file" in form):
            raise BadForm("send either prompt or prompt_image_file")
        seed = _seed(form["seed"]) if "seed" in form else None
        name = f"local-{time.time_ns():x}"
        if "prompt" not in form:
            picture = base64.b64encode(form["prompt_image_file"]).decode()
            return Task(name, "image", picture, PRIORITY, seed, "ply")
        try:
            sentence = form["prompt"].decode()
        except UnicodeDecodeError:
            raise BadForm("prompt is not UTF-8") from None
        return Task(name, "text", sentence, PRIORITY, seed, "ply")

    async def _fields(self, request: web.Request) -> dict[str, bytes]:
        """The parts of the form by name; each once, all together within the limit."""
        form: dict[str, bytes] = {}
        left = self._settings.max_body_bytes
        try:
            async for part in await request.multipart():
                name = part.name if isinstance(part, BodyPartReader) else None
                if name not in FIELDS or not isinstance(part, BodyPartReader):
                    raise BadForm(f"there is no field {str(name)[:64]!r}; there are {', '.join(FIELDS)}")
                if name in form:
                    raise BadForm(f"{name} stands there twice")
                content = bytearray()
                while chunk := await part.read_chunk():
                    content += chunk
                    if len(content) > left:
                        raise BadForm(f"the form has more than {self._settings.max_body_bytes} bytes", 413)
                left -= len(content)
                form[name] = bytes(content)
        except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as problem:
            raise BadForm(f"the form cannot be read: {' '.join(str(problem).split())[:200]}") from None
        return form


def _seed(text: bytes) -> int:
    if text.isdigit() and len(text) < 20 and (seed := int(text)) < SEEDS:
        return seed
    raise BadForm(f"seed must be a whole number from 0 to {SEEDS - 1}")
