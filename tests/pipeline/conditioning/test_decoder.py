import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.conditioning.decoder import DecoderProcess, DecodingLimits
from pipeline.conditioning.prompt import MAX_IMAGE_BYTES, decode_image_prompt
from pipeline.errors import PipelineError, PromptError
from scripts.validation.picture_bombs import jpeg_of_scans
from scripts.validation.picture_fuzz import mutated_pictures
from tests.support.picture_corpus import PICTURES, PictureCase
from tests.support.picture_files import encode

pytestmark = pytest.mark.process
SMALL = encode(Image.new("RGB", (8, 6), (10, 200, 30)))


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess()
    yield decoder
    decoder.close()


@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case.name)
def test_pictures_are_read_as_in_this_process(decoder: DecoderProcess, case: PictureCase) -> None:
    file = case.make()
    if isinstance(case.expected, str):
        with pytest.raises(PromptError) as here:
            decode_image_prompt(file)
        with pytest.raises(PromptError) as there:
            decoder.decode(file)
        assert str(there.value) == str(here.value)
    else:
        prompt, expected = decoder.decode(file), decode_image_prompt(file)
        assert (prompt.image.mode, prompt.image.size) == (expected.image.mode, expected.image.size)
        assert prompt.image.tobytes() == expected.image.tobytes()
        assert (prompt.label, prompt.image.info) == (expected.label, {})
    assert decoder.is_alive


def test_damaged_pictures_are_read_or_refused(decoder: DecoderProcess) -> None:
    outcomes = {"read": 0, "refused": 0}
    for file in mutated_pictures(random.Random(0), 500):
        try:
            assert decoder.decode(file).image.mode in ("RGB", "RGBA")
            outcomes["read"] += 1
        except PromptError as error:
            assert str(error)
            outcomes["refused"] += 1
        assert decoder.is_alive
    assert min(outcomes.values()) > 50, outcomes


def test_a_picture_that_takes_too_long_is_refused_and_its_process_ended() -> None:
    decoder = DecoderProcess(DecodingLimits(seconds=0.3))
    assert decoder.decode(SMALL).image.size == (8, 6)
    with pytest.raises(PromptError, match="cannot be decoded within 5 s"):
        decoder.decode(jpeg_of_scans(90))
    assert not decoder.is_alive


def test_a_picture_that_takes_too_much_memory_is_refused_and_its_process_ended() -> None:
    decoder = DecoderProcess(DecodingLimits(memory=200_000_000))
    assert decoder.decode(SMALL).image.size == (8, 6)
    with pytest.raises(PromptError, match="too much memory"):
        decoder.decode(encode(Image.new("RGBA", (4096, 4096))))
    assert not decoder.is_alive


def test_the_kernel_keeps_the_time_of_each_picture(decoder: DecoderProcess) -> None:
    """The process goes on alone if ours is killed, so its time must not depend on us."""
    decoder.decode(SMALL)
    limits = Path(f"/proc/{decoder._process.pid}/limits").read_text()
    (cpu,) = (line.split() for line in limits.splitlines() if line.startswith("Max cpu time"))
    assert 5 < int(cpu[3]) <= 5 + 60


def test_a_process_that_dies_costs_the_picture_alone() -> None:
    decoder = DecoderProcess()
    decoder.decode(SMALL)
    os.kill(decoder._process.pid, signal.SIGSEGV)
    with pytest.raises(PromptError, match="its decoder crashed"):
        decoder.decode(SMALL)
    assert not decoder.is_alive


def test_a_picture_in_progress_can_be_given_up() -> None:
    decoder = DecoderProcess()
    decoder.decode(SMALL)
    killer = threading.Timer(0.2, decoder.kill)
    killer.start()
    with pytest.raises(PromptError):
        decoder.decode(jpeg_of_scans(90))
    assert not decoder.is_alive


@pytest.mark.parametrize(
    "answer",
    [
        {}, [], '"refused"', ["refused"], "[" * 20_000, {"size": [8], "mode": "RGB"},
        {"size": [8, 6], "mode": "F"}, {"size": [10**6, 10**6], "mode": "RGB"},
        {"size": [-8, -6], "mode": "RGB"}, {"size": ["8", "6"], "mode": "RGB"}, {"size": [8, 6], "mode": ["RGB"]},
    ],
)  # fmt: skip
def test_a_file_that_took_over_the_process_gets_nowhere(
    answer: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    line = answer if isinstance(answer, str) else json.dumps(answer)
    worker.write_text(f"print('ready', flush=True); input(); print({line!r}, flush=True)")
    monkeypatch.setattr("pipeline.conditioning.decoder._WORKER", worker)
    taken_over = DecoderProcess()
    with pytest.raises(PromptError, match="decoder crashed"):
        taken_over.decode(SMALL)
    assert not taken_over.is_alive


def test_a_process_that_does_not_start_is_not_the_pictures_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("raise ImportError('no Pillow')")
    monkeypatch.setattr("pipeline.conditioning.decoder._WORKER", worker)
    decoder = DecoderProcess()
    with pytest.raises(PipelineError, match=rf"does not start; `.*{worker} .*` shows why") as caught:
        decoder.decode(SMALL)
    assert not isinstance(caught.value, PromptError)
    assert not decoder.is_alive


def test_larger_files_are_not_sent(decoder: DecoderProcess) -> None:
    with pytest.raises(PromptError, match=f"more than {MAX_IMAGE_BYTES}"):
        decoder.decode(bytes(MAX_IMAGE_BYTES + 1))
    assert decoder.is_alive


def test_the_process_loads_little() -> None:
    decoder = DecoderProcess()
    decoder.decode(SMALL)
    maps = Path(f"/proc/{decoder._process.pid}/maps").read_text()
    assert "_imaging" in maps
    assert not any(name in maps for name in ("torch", "bittensor", "onnxruntime", "pydantic"))
    decoder.close()


def test_the_process_can_write_no_file() -> None:
    decoder = DecoderProcess()
    decoder.decode(SMALL)
    limits = Path(f"/proc/{decoder._process.pid}/limits").read_text()
    assert re.search("^Max file size +0 +0 ", limits, re.MULTILINE)
    decoder.close()
