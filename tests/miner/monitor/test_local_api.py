import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from miner.config.settings import GenerateSettings
from miner.localnet.validator import LOOPBACK, free_port
from miner.monitor import LocalApi, Monitor
from miner.monitor import local_api as local_api_module
from miner.monitor.local_api import MAX_OVERHEAD, PRIORITY
from miner.tasks import PromptDecoder
from miner.tasks.task import Result, Task
from pipeline import Cancelled, ImagePrompt, NonFiniteOutput, PromptError, TextPrompt, ply
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import FixedStatus, until

SETTINGS = GenerateSettings(enabled=True, queue_size=2, max_body_bytes=4096)
PLY = ply.to_bytes(make_splats())


class ServedApi:
    """POST /generate over a runner that holds tasks until it is let go."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.declined: list[str] = []
        self.error: Exception | None = None
        self.going = asyncio.Event()
        self.going.set()
        self.arrived = asyncio.Event()
        self.working = self.most_working = self.dropped = 0
        self.port = free_port()
        self.decoder = PromptDecoder()
        self.api = LocalApi(SETTINGS, self)
        self.monitor = Monitor(FixedStatus(), LOOPBACK, self.port, self.api.routes())

    async def run(self, task: Task) -> Result:
        self.tasks.append(task)
        self.working += 1
        self.most_working = max(self.working, self.most_working)
        self.arrived.set()
        try:
            await self.going.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.working -= 1
        if self.error is not None:
            raise self.error
        asset = SimpleNamespace(gaussians=7000, seed=7)
        result: Any = SimpleNamespace(asset=asset, data=PLY)
        return result

    def decline(self, task_id: str, record: None, error: Exception) -> None:
        self.declined.append(str(error))

    async def post(self, data: Any, **headers: str) -> tuple[int, bytes, aiohttp.ClientResponse]:
        url = f"http://{LOOPBACK}:{self.port}/generate"
        async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as reply:
            return reply.status, await reply.read(), reply


@pytest_asyncio.fixture
async def api_server() -> AsyncIterator[ServedApi]:
    api_server = ServedApi()
    await api_server.monitor.start()
    yield api_server
    await api_server.monitor.stop()
    api_server.decoder.close()


def form(**fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value, filename="x" if isinstance(value, bytes) else None)
    return data


async def test_a_picture_becomes_a_ply(api_server: ServedApi) -> None:
    status, body, reply = await api_server.post(form(prompt_image_file=png(make_picture()), seed="42"))
    assert (status, reply.content_type, reply.headers["X-Seed"]) == (200, "application/octet-stream", "7")
    assert len(ply.from_bytes(body)) == len(make_splats())
    (task,) = api_server.tasks
    assert isinstance(task.prompt, ImagePrompt)
    assert (task.type, task.prompt.image.size, task.seed, task.format) == ("image", (64, 64), 42, "ply")
    assert task.up == "-y"


async def test_a_request_may_name_the_axis_that_points_up(api_server: ServedApi) -> None:
    assert (await api_server.post(form(prompt="x", up="y")))[0] == 200
    assert api_server.tasks[0].up == "y"


async def test_a_sentence_becomes_a_ply_after_all_tasks_of_validators(api_server: ServedApi) -> None:
    status, _, _ = await api_server.post(form(prompt="a réd chair", seed="0"))
    (task,) = api_server.tasks
    assert (status, task.type, task.prompt, task.seed) == (200, "text", TextPrompt("a réd chair"), 0)
    assert task.priority == PRIORITY
    assert task.deadline == float("inf")
    await api_server.post(form(prompt="x"))
    assert api_server.tasks[1].seed is None


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ({}, 415, "multipart/form-data"),
        (form(prompt="x", other="y"), 400, "no field 'other'"),
        (form(seed="1"), 400, "either prompt or prompt_image_file"),
        (form(prompt="x", prompt_image_file=b"y"), 400, "either prompt or prompt_image_file"),
        (form(prompt="x", seed="-1"), 400, "seed must be a whole number from 0"),
        (form(prompt="x", seed="1.5"), 400, "seed must be"),
        (form(prompt="x", up="z"), 400, "up must be one of y, -y"),
        (form(prompt="x", seed=str(2**63)), 400, "seed must be"),
        (form(prompt=b"\xff\xfe"), 400, "not UTF-8"),
        (form(prompt="  "), 400, "empty"),
        (form(prompt_image_file=b"y"), 400, "not an image"),
        (form(prompt_image_file=b"y" * 4097), 413, "more than 4096 bytes"),
        (form(prompt="x" * 3000, seed="1" * 1097), 413, "more than 4096 bytes"),
    ],
)
async def test_bad_forms_are_told_what_is_wrong(api_server: ServedApi, data: Any, status: int, words: str) -> None:
    got, _, reply = await api_server.post(data)
    assert (got, reply.content_type) == (status, "application/json")
    assert words in (await reply.json())["error"]
    assert not api_server.tasks


async def test_a_prompt_that_cannot_be_decoded_is_logged_and_counted_like_a_validators(api_server: ServedApi) -> None:
    got, body, _ = await api_server.post(form(prompt_image_file=b"y"))
    assert got == 400
    assert len(api_server.declined) == 1
    assert api_server.declined[0] in body.decode()


async def test_a_form_that_is_cut_off(api_server: ServedApi) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"", b"--b\r\nnonsense", b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\nx"):
        assert (await api_server.post(body, **head))[0] == 400
    assert (await api_server.post(b"x", **{"Content-Type": "multipart/form-data"}))[0] == 400


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_bytes_around_the_fields_count(api_server: ServedApi, where: str, in_chunks: bool) -> None:
    field = b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\nx\r\n--b--\r\n"
    filler = b"x" * 70 + b"\r\n"
    lines = [filler] * (2 * MAX_OVERHEAD // len(filler))
    parts = [*lines, field] if where == "before" else [field, *lines]

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    head = {"Content-Type": "multipart/form-data; boundary=b"}
    status, body, _ = await api_server.post(chunks() if in_chunks else b"".join(parts), **head)
    assert (status, b"more than 4096 bytes" in body) == (413, True)
    assert not api_server.tasks
    assert (await api_server.post(b"a preamble\r\n" + field, **head))[0] == 200


async def test_an_upload_that_stalls_is_ended(api_server: ServedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_api_module, "BODY_TIMEOUT", 0.2)
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    reader, writer = await asyncio.open_connection(LOOPBACK, api_server.port)
    writer.write(f"{head}Content-Length: 100\r\n\r\n--b".encode())
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert api_server.api._requests == 0
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("error", "status"),
    [(PromptError("the image is empty"), 400), (NonFiniteOutput("NaN"), 500), (Cancelled("stopping"), 503)],
)
async def test_generation_that_fails_says_why(api_server: ServedApi, error: Exception, status: int) -> None:
    api_server.error = error
    got, _, reply = await api_server.post(form(prompt="x"))
    assert (got, (await reply.json())["error"]) == (status, str(error))


async def test_one_at_a_time_and_few_may_wait(api_server: ServedApi) -> None:
    api_server.going.clear()
    waiting = [asyncio.create_task(api_server.post(form(prompt=str(index)))) for index in range(SETTINGS.queue_size)]
    await asyncio.wait_for(api_server.arrived.wait(), 10)
    await until(lambda: api_server.api._requests == SETTINGS.queue_size)
    status, _, reply = await api_server.post(form(prompt="one too many"))
    assert (status, reply.headers["Retry-After"]) == (503, "10")
    api_server.going.set()
    assert [(await request)[0] for request in waiting] == [200, 200]
    assert (len(api_server.tasks), api_server.most_working) == (2, 1)


async def test_a_miner_that_is_not_ready(api_server: ServedApi) -> None:
    api_server.api.runner = None
    status, body, _ = await api_server.post(form(prompt="x"))
    assert status == 503
    assert b"not ready" in body


async def test_who_hangs_up_has_the_generation_dropped(api_server: ServedApi) -> None:
    api_server.going.clear()
    request = asyncio.create_task(api_server.post(form(prompt="x")))
    await asyncio.wait_for(api_server.arrived.wait(), 10)
    request.cancel()
    await until(lambda: api_server.dropped == 1)
    api_server.going.set()
    assert (await api_server.post(form(prompt="next")))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ],
)
async def test_pages_of_other_sites_cannot_use_the_gpu(api_server: ServedApi, headers: dict[str, str]) -> None:
    assert (await api_server.post(form(prompt="x"), **headers))[0] == 403
    assert not api_server.tasks


async def test_our_own_page_could(api_server: ServedApi) -> None:
    ours = {"Origin": f"http://{LOOPBACK}:{api_server.port}", "Sec-Fetch-Site": "same-origin"}
    assert (await api_server.post(form(prompt="x"), **ours))[0] == 200


async def test_other_machines_are_refused(api_server: ServedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.web.BaseRequest.remote", "203.0.113.7")
    assert (await api_server.post(form(prompt="x")))[0] == 403
    assert not api_server.tasks


def test_it_is_off_unless_switched_on() -> None:
    assert not GenerateSettings().enabled
