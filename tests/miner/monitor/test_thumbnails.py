import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miner.monitor.gallery import Gallery
from miner.monitor.thumbnail_worker import draw_result
from miner.monitor.thumbnails import ThumbnailError, ThumbnailWorker
from miner.monitor.turntable import EXTENT, SIZE, VIEWS, draw_turntable
from pipeline import normalise
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from tests.support.generated import make_splats
from tests.support.monitor import some_result


def test_the_views_go_around_the_object() -> None:
    strip = np.asarray(draw_turntable(make_splats()), dtype=np.float32) / 255
    framed = normalise(make_splats(), EXTENT)
    for view in (0, 3):
        expected = render(framed, orbit((360 / VIEWS * view,), size=SIZE))[0].numpy()
        assert np.abs(strip[:, view * SIZE : (view + 1) * SIZE] - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.process
async def test_the_process_that_draws_is_idle_and_ends_with_us(tmp_path: Path) -> None:
    worker, pictures = ThumbnailWorker(), tmp_path / "pictures"
    with pytest.raises(ThumbnailError, match="FileNotFoundError"):
        await worker.draw(tmp_path, 7, pictures)
    process = worker._process
    assert process is not None
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    await worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.process
async def test_a_process_that_ends_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ThumbnailWorker()
    monkeypatch.setattr("miner.monitor.thumbnails.sys.executable", "/bin/false")
    with pytest.raises(ThumbnailError, match=r"has ended|Error"):
        await worker.draw(tmp_path, 1, tmp_path)
    # Speaks the protocol, and nothing else.
    parrot = tmp_path / "parrot"
    parrot.write_text("#!/bin/sh\nwhile read -r line; do echo ok; done\n")
    parrot.chmod(0o755)
    monkeypatch.setattr("miner.monitor.thumbnails.sys.executable", str(parrot))
    await worker.draw(tmp_path, 1, tmp_path)
    await worker.close()


@pytest.mark.process
async def test_a_process_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nwhile read -r line; do :; done\n")
    mute.chmod(0o755)
    monkeypatch.setattr("miner.monitor.thumbnails.sys.executable", str(mute))
    monkeypatch.setattr("miner.monitor.thumbnails.DRAWING_TIMEOUT", 0.3)
    worker = ThumbnailWorker()
    with pytest.raises(ThumbnailError, match="TimeoutError"):
        await worker.draw(tmp_path, 1, tmp_path)
    assert worker._process is None


def test_a_prompt_picture_is_drawn_anew_never_passed_on(tmp_path: Path) -> None:
    """What strangers hide behind the pixels of their files does not reach the operator's browser."""
    buffer = io.BytesIO()
    Image.new("RGB", (900, 30), (10, 200, 30)).save(buffer, "PNG")
    gallery = Gallery(tmp_path)
    assert gallery._save(some_result(1, picture=buffer.getvalue() + b"<script>"))
    draw_result(gallery.results, 1, gallery.pictures)
    picture = (tmp_path / "pictures" / "1.prompt.webp").read_bytes()
    assert b"<script>" not in picture
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.width) == ("WEBP", 2 * SIZE)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_prompt_picture_that_lies_on_its_side_is_drawn_upright(tmp_path: Path, image_format: str) -> None:
    exif = Image.Exif()
    # A quarter turn: the left side of what is stored is the top.
    exif[0x0112] = 6
    image = Image.new("RGB", (90, 30), "blue")
    image.paste("red", (0, 0, 45, 30))
    buffer = io.BytesIO()
    image.save(buffer, image_format, exif=exif)
    gallery = Gallery(tmp_path)
    assert gallery._save(some_result(1, picture=buffer.getvalue()))
    draw_result(gallery.results, 1, gallery.pictures)
    with Image.open(gallery.pictures / "1.prompt.webp") as opened:
        assert opened.size == (30, 90)
        above, below = (opened.convert("RGB").getpixel((15, y)) for y in (10, 80))
    assert above[0] > 200 > 50 > above[2]
    assert below[2] > 200 > 50 > below[0]
