"""The latest results on disk, with thumbnails that a process of its own draws at idle priority."""

import asyncio
import io
import json
import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from miner.monitor.gpu_drawing import DrawTurntable
from miner.monitor.thumbnails import ThumbnailError, ThumbnailWorker
from miner.monitor.turntable import encode_webp
from miner.runtime import write_atomically
from miner.tasks import Result, Task
from pipeline import ImagePrompt, ResultFormat, Splats, TextPrompt, UpAxis, flip_up_axis, ply, spz

log = logging.getLogger(__name__)

# Results in memory until they are saved, and saved results until they are drawn; the oldest are dropped.
MAX_UNSAVED = 8
MAX_UNDRAWN = 4
# Results whose facts are kept in memory, some kilobytes each.
MAX_FACTS = 4096


def read_upright(results: Path, key: int) -> Splats:
    """Return the splats of a result in a folder, with +y up whatever its file has.

    Raises OSError if there is none, FormatError or ValueError if it is damaged.
    """
    facts = json.loads((results / f"{key}.json").read_text(encoding="utf-8"))
    read = ply.from_bytes if facts["data_format"] == "ply" else spz.from_bytes
    splats = read((results / f"{key}.{facts['data_format']}").read_bytes())
    return flip_up_axis(splats) if facts.get("up") == "-y" else splats


@dataclass(frozen=True, eq=False)
class GalleryResult:
    """A result and its prompt, a sentence or an image file; `key` is that of the ledger, or unix nanoseconds.

    sheets: small pictures (JPEG) of all candidates, by seed.
    """

    key: int
    task_id: str
    task_type: Literal["text", "image"]
    prompt: str | bytes
    phase: str
    seed: int
    gaussians: int
    seconds: float
    data: bytes
    data_format: ResultFormat
    up: UpAxis
    sheets: Mapping[int, bytes] = field(default_factory=dict)

    @staticmethod
    def of(task: Task, result: Result) -> "GalleryResult":
        """Return what the gallery keeps of a task's result."""
        match task.prompt:
            case TextPrompt(text):
                prompt: str | bytes = text
            case ImagePrompt(file=file):
                prompt = file
            case images:
                prompt = images.images[0].file
        return GalleryResult(
            key=time.time_ns() if task.record is None else task.record.key,
            task_id=task.id, task_type=task.type, prompt=prompt, phase=result.phase.name, seed=result.asset.seed,
            gaussians=result.asset.gaussians, seconds=result.asset.total_seconds,
            data=result.data, data_format=task.format, up=task.up, sheets=result.sheets,
        )  # fmt: skip


@dataclass(frozen=True)
class StoredResult:
    """A result on disk; `facts` are the fields of its GalleryResult that are no files."""

    key: int
    facts: dict[str, Any]
    size: int
    has_picture: bool
    has_prompt_picture: bool


class Gallery:
    """Saves results to `folder`/results and draws them to `folder`/pictures; `Retention` deletes them."""

    def __init__(self, folder: Path) -> None:
        """Use a folder that need not exist yet."""
        self.results = folder / "results"
        self.pictures = folder / "pictures"
        self._unsaved: deque[GalleryResult] = deque(maxlen=MAX_UNSAVED)
        self._undrawn: deque[int] = deque(maxlen=MAX_UNDRAWN)
        self._has_new = asyncio.Event()
        self._problem = ""
        self._facts: dict[int, dict[str, Any]] = {}
        # Somebody waits for these.
        self._views_worker = ThumbnailWorker(is_idle=False)
        self._views_lock = asyncio.Lock()

    def offer(self, result: GalleryResult) -> None:
        """Queue a result to be saved and drawn, on the event loop; returns at once."""
        self._unsaved.append(result)
        self._has_new.set()

    async def run(self, draw_on_gpu: DrawTurntable | None = None) -> None:
        """Save and draw results until cancelled, their splats on a GPU if there is one to draw on."""
        worker = ThumbnailWorker()
        try:
            while True:
                while self._unsaved:
                    result = self._unsaved.popleft()
                    if await asyncio.to_thread(self._save, result):
                        self._undrawn.append(result.key)
                if self._undrawn:
                    # The newest first: while results come faster than they are drawn, older ones are not drawn.
                    await self._draw(worker, self._undrawn.pop(), draw_on_gpu)
                    continue
                self._has_new.clear()
                if not self._unsaved:
                    await self._has_new.wait()
        finally:
            await worker.close()
            await self._views_worker.close()

    async def draw_views(self, key: int) -> None:
        """Draw the views that a validator judges of a result, unless they are drawn. Raises ThumbnailError."""
        # One at a time, with a worker of their own, so that thumbnails need not wait for them.
        async with self._views_lock:
            if not await asyncio.to_thread((self.pictures / f"{key}.views.webp").is_file):
                await self._views_worker.draw(self.results, key, self.pictures, "views")

    def keys(self) -> list[int]:
        """Return the keys of the results on disk, the newest first. Blocks."""
        stems = (path.stem for path in self.results.glob("*.json"))
        return sorted((int(stem) for stem in stems if re.fullmatch("[0-9]{1,19}", stem)), reverse=True)

    def read(self, key: int) -> StoredResult | None:
        """Return a result, None if it is not kept any more. Blocks."""
        try:
            facts = self._facts.get(key) or json.loads((self.results / f"{key}.json").read_text(encoding="utf-8"))
            size = (self.results / f"{key}.{facts['data_format']}").stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            # Deleted meanwhile, or not a file of this gallery.
            self._facts.pop(key, None)
            return None
        # They never change, and a search reads all of them.
        self._facts[key] = facts
        while len(self._facts) > MAX_FACTS:
            self._facts.pop(next(iter(self._facts)))
        pictures = ((self.pictures / name).is_file() for name in (f"{key}.webp", f"{key}.prompt.webp"))
        return StoredResult(key, facts, size, *pictures)

    def read_sheet(self, key: int, seed: int) -> bytes | None:
        """Return the picture (JPEG) of a candidate of a task, None if there is none. Blocks."""
        try:
            with ZipFile(self.results / f"{key}.candidates.zip") as sheets:
                return sheets.read(f"{seed}.jpg")
        except (OSError, KeyError, BadZipFile):
            return None

    def seeds_with_sheets(self, key: int) -> set[int]:
        """Return the seeds of a task's candidates of which there are pictures. Blocks."""
        try:
            with ZipFile(self.results / f"{key}.candidates.zip") as sheets:
                return {int(name.removesuffix(".jpg")) for name in sheets.namelist()}
        except (OSError, ValueError, BadZipFile):
            return set()

    def _save(self, result: GalleryResult) -> bool:
        facts = {name: value for name, value in vars(result).items() if name not in ("data", "prompt", "sheets")}
        files = {f"{result.key}.{result.data_format}": result.data}
        if isinstance(result.prompt, bytes):
            files[f"{result.key}.prompt"] = result.prompt
        else:
            facts["prompt"] = result.prompt
        if result.sheets:
            files[f"{result.key}.candidates.zip"] = _zip_sheets(result.sheets)
        # Last, since it makes the result visible.
        files[f"{result.key}.json"] = json.dumps(facts).encode()
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_atomically(self.results / name, data)
        except OSError as error:
            # What was written of it would fill the disk further, and nobody would see it.
            for name in files:
                with suppress(OSError):
                    (self.results / name).unlink(missing_ok=True)
            self._warn_once(f"results cannot be saved to {self.results}: {error.strerror}")
            return False
        return True

    async def _draw(self, worker: ThumbnailWorker, key: int, draw_on_gpu: DrawTurntable | None) -> None:
        is_drawn = draw_on_gpu is not None and await self._draw_splats(key, draw_on_gpu)
        try:
            await worker.draw(self.results, key, self.pictures, "prompt" if is_drawn else "thumbnails")
        except ThumbnailError as error:
            self._warn_once(f"a result could not be drawn: {error}")
        else:
            self._problem = ""

    async def _draw_splats(self, key: int, draw: DrawTurntable) -> bool:
        """Draw a result's splats on the GPU; return whether that went well, since the worker can do it, too."""
        try:
            strip = await draw(await asyncio.to_thread(read_upright, self.results, key))
            self.pictures.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(lambda: write_atomically(self.pictures / f"{key}.webp", encode_webp(strip)))
        except Exception as error:  # such as a GPU without memory to spare
            log.debug("Result %d is not drawn on the GPU: %s: %s", key, type(error).__name__, error)
            return False
        return True

    def _warn_once(self, problem: str) -> None:
        """Log a problem unless the last one was the same."""
        if problem != self._problem:
            log.warning("Mining goes on, but %s", problem)
        self._problem = problem


def _zip_sheets(sheets: Mapping[int, bytes]) -> bytes:
    """Return one file with the pictures of all candidates: there may be hundreds of a few kilobytes each."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for seed, sheet in sheets.items():
            archive.writestr(f"{seed}.jpg", sheet)
    return buffer.getvalue()
