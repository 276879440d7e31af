import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from miner.tasks import PromptDecoder
from miner.tasks.decoding import PROCESSES
from pipeline import Cancelled, DecoderProcess, DecodingLimits, ImagePrompt, PromptError, TextPrompt
from scripts.validation.picture_bombs import jpeg_of_scans
from tests.support.generated import make_picture, png
from tests.support.waiting import until

pytestmark = pytest.mark.process
FILE = png(make_picture())


class Started:
    """Notes the processes that are started, and holds their pictures if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes: list[DecoderProcess] = []
        self.decoding = 0
        start, decode = DecoderProcess.__init__, DecoderProcess.decode

        def note(process: DecoderProcess, limits: DecodingLimits) -> None:
            start(process, limits)
            self.processes.append(process)

        def count(process: DecoderProcess, file: bytes) -> ImagePrompt:
            self.decoding += 1
            try:
                return decode(process, file)
            finally:
                self.decoding -= 1

        monkeypatch.setattr(DecoderProcess, "__init__", note)
        monkeypatch.setattr(DecoderProcess, "decode", count)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest_asyncio.fixture
async def decoder(started: Started) -> AsyncIterator[PromptDecoder]:
    decoder = PromptDecoder()
    yield decoder
    decoder.close()
    assert not any(process.is_alive for process in started.processes)


async def test_prompts_of_both_types(decoder: PromptDecoder, started: Started) -> None:
    assert await decoder.decode("text", " a red chair", "5V") == TextPrompt("a red chair")
    assert not started.processes
    for prompt in (
        await decoder.decode("image", base64.b64encode(FILE).decode(), "5V"),
        await decoder.decode_image(FILE, "5V"),
    ):
        assert isinstance(prompt, ImagePrompt)
        assert (prompt.image.size, prompt.file) == ((64, 64), FILE)
    # The process stays for the next picture.
    assert len(started.processes) == 1


@pytest.mark.parametrize(("task_type", "text"), [("text", " "), ("image", "a cat!"), ("image", "AAAA")])
async def test_prompts_that_are_refused(decoder: PromptDecoder, task_type: str, text: str) -> None:
    with pytest.raises(PromptError):
        await decoder.decode(task_type, text, "5V")  # type: ignore[arg-type]


async def test_a_process_that_was_killed_is_replaced(started: Started) -> None:
    decoder = PromptDecoder(DecodingLimits(seconds=0.3))
    await decoder.decode_image(FILE, "5V")
    with pytest.raises(PromptError, match="within 5 s"):
        await decoder.decode_image(jpeg_of_scans(90), "5V")
    assert (await decoder.decode_image(FILE, "5V")).image.size == (64, 64)
    assert len(started.processes) == 2
    started.processes[-1].kill()
    assert not started.processes[-1].is_alive
    assert (await decoder.decode_image(FILE, "5V")).image.size == (64, 64)
    decoder.close()


async def test_one_sender_cannot_hold_up_another(decoder: PromptDecoder, started: Started) -> None:
    bomb = jpeg_of_scans(80)
    bombs = [asyncio.create_task(decoder.decode_image(bomb, "5Hostile")) for _ in range(2 * PROCESSES)]
    await until(lambda: started.decoding > 0)
    await decoder.decode_image(FILE, "5Honest")
    # While that was decoded, no more than two of them ended, one after the other.
    assert sum(task.done() for task in bombs) < PROCESSES
    for task in bombs:
        task.cancel()
    await asyncio.wait(bombs)
    assert all(task.cancelled() for task in bombs)
    assert started.decoding == 0


async def test_whoever_gives_up_has_it_stopped_at_once(decoder: PromptDecoder, started: Started) -> None:
    task = asyncio.create_task(decoder.decode_image(jpeg_of_scans(90), "5V"))
    await until(lambda: started.decoding == 1)
    task.cancel()
    await asyncio.wait({task})
    # The place that the task holds in its queue is given up only now that nothing is worked on.
    assert (task.cancelled(), started.decoding) == (True, 0)
    assert not started.processes[0].is_alive
    assert (await decoder.decode_image(FILE, "5V")).image.size == (64, 64)


async def test_nothing_is_decoded_once_closed(decoder: PromptDecoder) -> None:
    decoder.close()
    with pytest.raises(Cancelled):
        await decoder.decode_image(FILE, "5V")
