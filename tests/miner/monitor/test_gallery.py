import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miner.gpu.local_worker import LocalWorker
from miner.monitor.gallery import MAX_UNSAVED, Gallery, GalleryResult, read_upright
from miner.monitor.gpu_drawing import DrawTurntable, choose_gpu_drawing
from miner.monitor.turntable import SIZE, VIEWS, draw_turntable
from miner.tasks.task import Result, Task
from pipeline import STAGES, PackedAsset, Splats, TextPrompt, compute_statistics, decode_image_prompt, flip_up_axis, ply
from tests.support.full_disk import file_limit
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import HOSTILE, some_result, until


@asynccontextmanager
async def at_work(gallery: Gallery, draw_on_gpu: DrawTurntable | None = None) -> AsyncIterator[None]:
    task = asyncio.create_task(gallery.run(draw_on_gpu))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lies(*paths: Path) -> Callable[[], bool]:
    return lambda: all(path.is_file() for path in paths)


@pytest.mark.slow
@pytest.mark.process
async def test_results_are_saved_and_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = Gallery(tmp_path)
    with caplog.at_level(logging.WARNING, "miner"):
        async with at_work(gallery):
            gallery.offer(some_result(1, data=b"damaged"))
            await until(lies(gallery.results / "1.json"))
            gallery.offer(some_result(2, prompt=HOSTILE, data_format="ply"))
            await until(lies(gallery.pictures / "2.webp"))
            gallery.offer(some_result(3, picture=png(make_picture())))
            await until(lies(gallery.pictures / "3.webp"))
    # What cannot be drawn stops nothing.
    assert "could not be drawn: FormatError" in caplog.text
    newest, older, damaged = [one for one in map(gallery.read, gallery.keys()[:10]) if one]
    assert (newest.key, newest.has_picture, newest.has_prompt_picture) == (3, True, True)
    assert (older.key, older.has_picture, older.has_prompt_picture) == (2, True, False)
    assert (damaged.key, damaged.has_picture) == (1, False)
    assert older.facts["prompt"] == HOSTILE
    assert "prompt" not in newest.facts
    assert newest.facts["seed"] == 2**62 + 1
    for key in (2, 3):
        kept = read_upright(gallery.results, key)
        assert kept is not None
        assert torch.allclose(kept.means, make_splats().means, atol=1e-3)
    with Image.open(gallery.pictures / "3.webp") as strip:
        assert strip.size == (VIEWS * SIZE, SIZE)
    with Image.open(gallery.pictures / "3.prompt.webp") as prompt:
        assert prompt.size == (64, 64)


@pytest.mark.slow
@pytest.mark.process
async def test_splats_are_drawn_on_the_gpu_if_there_is_one_and_prompts_are_not(tmp_path: Path) -> None:
    """What strangers sent is decoded in the process that can be killed, whoever draws the splats."""
    gallery, drawn = Gallery(tmp_path), 0

    async def draw(splats: Splats) -> Image.Image:
        nonlocal drawn
        drawn += 1
        if drawn == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert torch.allclose(splats.means, make_splats().means, atol=1e-3)
        return Image.new("RGB", (VIEWS * SIZE, SIZE), "teal")

    async with at_work(gallery, draw):
        gallery.offer(some_result(1, picture=png(make_picture())))
        await until(lies(gallery.pictures / "1.webp", gallery.pictures / "1.prompt.webp"))
        gallery.offer(some_result(2))
        await until(lies(gallery.pictures / "2.webp"))
    with Image.open(gallery.pictures / "1.webp") as strip:
        assert strip.convert("RGB").getpixel((5, 5)) == pytest.approx((0, 128, 128), abs=4)
    # Without memory on the GPU, the process draws.
    expected = np.asarray(draw_turntable(make_splats()), np.float32)
    with Image.open(gallery.pictures / "2.webp") as strip:
        assert np.abs(np.asarray(strip.convert("RGB"), np.float32) - expected).mean() < 8


def test_only_a_gpu_that_this_process_drives_is_drawn_on(tmp_path: Path) -> None:
    parts = [LocalWorker(device, lambda _: None) for device in ("cpu", "cuda:1")]  # type: ignore[arg-type, return-value]
    try:
        assert choose_gpu_drawing(parts[:1]) is None
        assert choose_gpu_drawing(parts[1:]) is not None
        assert choose_gpu_drawing([SimpleNamespace(device="cuda:0")]) is None  # type: ignore[list-item]
    finally:
        assert all(worker.stop(5) for worker in parts)


@pytest.mark.process
async def test_a_folder_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "results").write_text("in the way")
    gallery = Gallery(tmp_path)
    with caplog.at_level(logging.WARNING, "miner"):
        async with at_work(gallery):
            for key in range(3):
                gallery.offer(some_result(key))
            await until(lambda: not gallery._unsaved and "cannot be saved" in caplog.text)
            (tmp_path / "results").unlink()
            gallery.offer(some_result(9))
            await until(lies(gallery.results / "9.json"))
    assert caplog.text.count("cannot be saved") == 1


def test_the_pictures_of_candidates_are_kept_and_read_one_by_one(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    assert gallery._save(some_result(3, sheets={5: b"of 5", 2**62 + 3: b"of the other"}))
    assert gallery.seeds_with_sheets(3) == {5, 2**62 + 3}
    assert gallery.read_sheet(3, 2**62 + 3) == b"of the other"
    assert gallery.read_sheet(3, 6) is None
    # Of a result without any, and of one whose file is damaged.
    assert gallery._save(some_result(4))
    assert not (gallery.results / "4.candidates.zip").exists()
    (gallery.results / "3.candidates.zip").write_bytes(b"PK damaged")
    for key in (3, 4):
        assert gallery.seeds_with_sheets(key) == set()
        assert gallery.read_sheet(key, 5) is None


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    for key in range(3 * MAX_UNSAVED):
        gallery.offer(some_result(key))
    assert len(gallery._unsaved) == MAX_UNSAVED


def test_files_that_a_crash_cut_off_are_passed_over(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    assert [one for one in map(gallery.read, gallery.keys()[:5]) if one] == []
    assert gallery._save(some_result(3))
    (gallery.results / "4.json").write_text('{"task_id": "cut o')
    (gallery.results / "5.json").write_text('{"data_format": "spz"}')
    (gallery.results / "notes.json").write_text("{}")
    assert [kept.key for kept in [one for one in map(gallery.read, gallery.keys()[:5]) if one]] == [3]
    with pytest.raises(FileNotFoundError):
        read_upright(gallery.results, 404)


def test_a_name_with_digits_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    assert gallery._save(some_result(1))
    (gallery.results / "²3.json").write_text("{}")
    assert [result.key for result in [one for one in map(gallery.read, gallery.keys()[:10]) if one]] == [1]


def test_results_with_either_axis_up_are_read_upright(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    file = ply.to_bytes(flip_up_axis(make_splats()))
    assert gallery._save(some_result(1, data=file, data_format="ply", up="-y"))
    assert torch.equal(read_upright(gallery.results, 1).means, make_splats().means)


def test_a_task_and_its_result_become_a_gallery_result() -> None:
    phase: Any = SimpleNamespace(name="phase3")
    asset = PackedAsset(b"data", (), 5, 200, compute_statistics(make_splats()), dict.fromkeys(STAGES, 0.25))
    result = Result(asset, phase, None, ())
    record: Any = SimpleNamespace(key=17)
    sentence = GalleryResult.of(Task("t", TextPrompt("a chair"), 0.0, record=record), result)
    assert (sentence.key, sentence.task_type, sentence.prompt, sentence.data_format) == (17, "text", "a chair", "spz")
    assert (sentence.seed, sentence.gaussians, sentence.seconds) == (5, 7000, asset.total_seconds)
    file = png(make_picture())
    picture = GalleryResult.of(Task("t", decode_image_prompt(file), 0.0, format="ply"), result)
    assert (picture.task_type, picture.prompt, picture.data_format) == ("image", file, "ply")
    assert picture.key > 10**18


def test_a_full_disk_leaves_no_half_saved_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = Gallery(tmp_path)
    for result in (some_result(1, data=b"splats"), some_result(2, data=b"splats", picture=b"picture")):
        # The splats and the picture fit, their description does not.
        with file_limit(20), caplog.at_level(logging.WARNING, "miner"):
            assert not gallery._save(result)
    assert list(gallery.results.iterdir()) == []
    assert caplog.text.count("cannot be saved") == 1
    assert gallery._save(some_result(1, data=b"splats"))
