"""The latest results on disk, with pictures of them that a process of its own draws at idle priority."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miner.tasks.task import Result, Task
from pipeline import Splats, ply, spz

log = logging.getLogger(__name__)

# Results in memory until they are on disk, and results on disk until they are drawn; the oldest give way.
MOST_UNSAVED = 8
MOST_UNDRAWN = 4
# The largest results take some ten seconds of an idle core.
DRAWING_TIMEOUT = 180.0
# Of the packages.
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, eq=False)
class GalleryResult:
    """A result as it is sent, and what it was gallery_result of; `key` is the task's in the ledger, or unix nanoseconds."""

    key: int
    task_id: str
    task_type: Literal["text", "image"]
    prompt: str
    phase: str
    seed: int
    gaussians: int
    seconds: float
    data: bytes
    data_format: Literal["spz", "ply"]


def gallery_result(task: Task, result: Result) -> GalleryResult:
    """Of a task's result."""
    return GalleryResult(
        key=time.time_ns() if task.entry is None else task.entry.key,
        task_id=task.id,
        task_type=task.type,
        prompt=task.prompt,
        phase=result.phase.name,
        seed=result.asset.seed,
        gaussians=len(result.asset.splats),
        seconds=result.asset.total_seconds,
        data=result.data,
        data_format=task.data_format,
    )


@dataclass(frozen=True)
class StoredResult:
    """A result on disk; `facts` are the fields of GalleryResult that are neither prompt picture nor data."""

    key: int
    facts: dict[str, Any]
    size: int
    has_picture: bool
    has_prompt_picture: bool


class Gallery:
    """Keeps what it is offered in `folder`/results and draws it into `folder`/pictures; deleting is housekeeping's."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.pictures = folder / "pictures"
        self._unsaved: deque[GalleryResult] = deque(maxlen=MOST_UNSAVED)
        self._undrawn: deque[int] = deque(maxlen=MOST_UNDRAWN)
        self._offered = asyncio.Event()
        self._problem = ""

    def offer(self, gallery_result: GalleryResult) -> None:
        """Take a result, on the event loop; returns at once."""
        self._unsaved.append(gallery_result)
        self._offered.set()

    async def run(self) -> None:
        """Save and draw until cancelled."""
        painter = ThumbnailWorker()
        try:
            while True:
                while self._unsaved:
                    gallery_result = self._unsaved.popleft()
                    if await asyncio.to_thread(self._save, gallery_result):
                        self._undrawn.append(gallery_result.key)
                if self._undrawn:
                    # The newest first: while results come faster than they are drawn, older ones stay without.
                    await self._draw(painter, self._undrawn.pop())
                    continue
                self._offered.clear()
                if not self._unsaved:
                    await self._offered.wait()
        finally:
            await painter.close()

    def latest(self, count: int) -> list[StoredResult]:
        """The newest results, the newest first. Blocks."""
        keys = sorted((int(path.stem) for path in _files(self.results, ".json") if path.stem.isdigit()), reverse=True)
        found = []
        for key in keys[:count]:
            kept = self._kept(key)
            if kept is not None:
                found.append(kept)
        return found

    def splats(self, key: int) -> Splats | None:
        """A result's splats; None if there is none of that key. Raises FormatError if the file is damaged. Blocks."""
        for suffix, read in (("spz", spz.from_bytes), ("ply", ply.from_bytes)):
            with suppress(FileNotFoundError):
                return read((self.results / f"{key}.{suffix}").read_bytes())
        return None

    def _kept(self, key: int) -> StoredResult | None:
        try:
            facts = json.loads((self.results / f"{key}.json").read_text(encoding="utf-8"))
            size = (self.results / f"{key}.{facts['data_format']}").stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            # Deleted meanwhile, or cut off by a crash.
            return None
        pictures = ((self.pictures / name).is_file() for name in (f"{key}.webp", f"{key}.prompt.webp"))
        return StoredResult(key, facts, size, *pictures)

    def _save(self, gallery_result: GalleryResult) -> bool:
        facts = {name: value for name, value in vars(gallery_result).items() if name not in ("data", "prompt")}
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            (self.results / f"{gallery_result.key}.{gallery_result.data_format}").write_bytes(gallery_result.data)
            if gallery_result.task_type == "image":
                with suppress(binascii.Error):
                    picture = base64.b64decode(gallery_result.prompt.rpartition(",")[2])
                    (self.results / f"{gallery_result.key}.prompt").write_bytes(picture)
            else:
                facts["prompt"] = gallery_result.prompt
            (self.results / f"{gallery_result.key}.json").write_text(json.dumps(facts), encoding="utf-8")
        except OSError as error:
            self._tell(f"results cannot be kept in {self.results}: {error.strerror}")
            return False
        return True

    async def _draw(self, painter: ThumbnailWorker, key: int) -> None:
        try:
            await painter.draw(self.results, key, self.pictures)
        except ThumbnailError as error:
            self._tell(f"a result could not be drawn: {error}")
        else:
            self._problem = ""

    def _tell(self, problem: str) -> None:
        """Once for each in a row."""
        if problem != self._problem:
            log.warning("Mining goes on, but %s", problem)
        self._problem = problem


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                yield Path(entry.path)


class ThumbnailError(Exception):
    """No picture; the message says why."""


class ThumbnailWorker:
    """The process that draws, started when it is first needed; one call at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def draw(self, results: Path, key: int, pictures: Path) -> None:
        """Have one result drawn. Raises ThumbnailError."""
        order = {"results": str(results), "key": key, "pictures": str(pictures)}
        try:
            async with asyncio.timeout(DRAWING_TIMEOUT):
                process = await self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(order).encode() + b"\n")
                await process.stdin.drain()
                reply = (await process.stdout.readline()).decode(errors="replace").strip()
        except (OSError, TimeoutError) as error:
            await self.close()
            raise ThumbnailError(f"{type(error).__name__} {error}".strip()) from None
        except BaseException:
            # An answer that comes later must not be taken for that to the next order.
            await self.close()
            raise
        if not reply:
            await self.close()
            raise ThumbnailError("the process that draws has ended")
        if reply != "ok":
            raise ThumbnailError(reply)

    async def close(self) -> None:
        """End the process, if it runs."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            environment = os.environ | {
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": path,
                # Else the working directory came first, and neurons/ has a module called miner.
                "PYTHONSAFEPATH": "1",
            }
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "miner.monitor.thumbnail_worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
            )
        return self._process
