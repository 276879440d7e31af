from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miner.monitor import Gallery
from miner.monitor.gallery import MOST_UNSAVED, ThumbnailError, ThumbnailWorker
from miner.monitor.thumbnail_worker import EXTENT, SIZE, VIEWS, draw, turntable
from pipeline import normalise
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from tests.miner.monitor.conftest import HOSTILE, some_result, until
from tests.support.factories import make_splats


@asynccontextmanager
async def at_work(gallery: Gallery) -> AsyncIterator[None]:
    task = asyncio.create_task(gallery.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lies(*paths: Path) -> Callable[[], bool]:
    return lambda: all(path.is_file() for path in paths)


async def test_results_are_kept_and_drawn(tmp_path: Path, image_base64: str, caplog: pytest.LogCaptureFixture) -> None:
    gallery = Gallery(tmp_path)
    with caplog.at_level(logging.WARNING, "miner"):
        async with at_work(gallery):
            gallery.offer(some_result(1, data=b"damaged"))
            await until(lies(gallery.results / "1.json"))
            gallery.offer(some_result(2, prompt=HOSTILE, data_format="ply"))
            await until(lies(gallery.pictures / "2.webp"))
            gallery.offer(some_result(3, picture=image_base64))
            await until(lies(gallery.pictures / "3.webp"))
    # What cannot be drawn stops nothing.
    assert "could not be drawn: FormatError" in caplog.text
    newest, older, damaged = gallery.latest(10)
    assert (newest.key, newest.has_picture, newest.has_prompt_picture) == (3, True, True)
    assert (older.key, older.has_picture, older.has_prompt_picture) == (2, True, False)
    assert (damaged.key, damaged.has_picture) == (1, False)
    assert older.facts["prompt"] == HOSTILE
    assert "prompt" not in newest.facts
    assert newest.facts["seed"] == 2**62 + 1
    for key in (2, 3):
        kept = gallery.splats(key)
        assert kept is not None
        assert torch.allclose(kept.means, make_splats().means, atol=1e-3)
    with Image.open(gallery.pictures / "3.webp") as strip:
        assert strip.size == (VIEWS * SIZE, SIZE)
    with Image.open(gallery.pictures / "3.prompt.webp") as prompt:
        assert prompt.size == (64, 64)


def test_the_views_go_around_the_object() -> None:
    strip = np.asarray(turntable(make_splats()), dtype=np.float32) / 255
    framed = normalise(make_splats(), EXTENT)
    for view in (0, 3):
        expected = render(framed, orbit((360 / VIEWS * view,), size=SIZE))[0].numpy()
        assert np.abs(strip[:, view * SIZE : (view + 1) * SIZE] - expected).max() <= 0.5 / 255 + 1e-6


async def test_the_process_that_draws_is_idle_and_ends_with_us(tmp_path: Path) -> None:
    painter, pictures = ThumbnailWorker(), tmp_path / "pictures"
    with pytest.raises(ThumbnailError, match="FileNotFoundError"):
        await painter.draw(tmp_path, 7, pictures)
    process = painter._process
    assert process is not None
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    await painter.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_a_process_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = ThumbnailWorker()
    monkeypatch.setattr("miner.monitor.gallery.sys.executable", "/bin/false")
    with pytest.raises(ThumbnailError, match=r"has ended|Error"):
        await painter.draw(tmp_path, 1, tmp_path)
    # Speaks the protocol, and nothing else.
    parrot = tmp_path / "parrot"
    parrot.write_text("#!/bin/sh\nwhile read -r line; do echo ok; done\n")
    parrot.chmod(0o755)
    monkeypatch.setattr("miner.monitor.gallery.sys.executable", str(parrot))
    await painter.draw(tmp_path, 1, tmp_path)
    await painter.close()


async def test_a_process_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nwhile read -r line; do :; done\n")
    mute.chmod(0o755)
    monkeypatch.setattr("miner.monitor.gallery.sys.executable", str(mute))
    monkeypatch.setattr("miner.monitor.gallery.DRAWING_TIMEOUT", 0.3)
    painter = ThumbnailWorker()
    with pytest.raises(ThumbnailError, match="TimeoutError"):
        await painter.draw(tmp_path, 1, tmp_path)
    assert painter._process is None


async def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "results").write_text("in the way")
    gallery = Gallery(tmp_path)
    with caplog.at_level(logging.WARNING, "miner"):
        async with at_work(gallery):
            for key in range(3):
                gallery.offer(some_result(key))
            await until(lambda: not gallery._unsaved and "cannot be kept" in caplog.text)
            (tmp_path / "results").unlink()
            gallery.offer(some_result(9))
            await until(lies(gallery.results / "9.json"))
    assert caplog.text.count("cannot be kept") == 1


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    for key in range(3 * MOST_UNSAVED):
        gallery.offer(some_result(key))
    assert len(gallery._unsaved) == MOST_UNSAVED


def test_files_that_a_crash_cut_off_are_passed_over(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    assert gallery.latest(5) == []
    assert gallery._save(some_result(3))
    (gallery.results / "4.json").write_text('{"task_id": "cut o')
    (gallery.results / "5.json").write_text('{"data_format": "spz"}')
    (gallery.results / "notes.json").write_text("{}")
    assert [kept.key for kept in gallery.latest(5)] == [3]
    assert gallery.splats(404) is None


def test_a_prompt_picture_is_drawn_anew_never_passed_on(tmp_path: Path) -> None:
    """What strangers hide behind the pixels of their files does not reach the operator's browser."""
    buffer = io.BytesIO()
    Image.new("RGB", (900, 30), (10, 200, 30)).save(buffer, "PNG")
    results = tmp_path / "results"
    results.mkdir()
    (results / "1.prompt").write_bytes(buffer.getvalue() + b"<script>")
    (results / "1.spz").write_bytes(some_result(1).data)
    draw(results, 1, tmp_path / "pictures")
    picture = (tmp_path / "pictures" / "1.prompt.webp").read_bytes()
    assert b"<script>" not in picture
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.width) == ("WEBP", 2 * SIZE)
