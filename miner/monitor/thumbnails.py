"""The worker process that draws thumbnails of results, as the gallery uses it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

# Seconds for one result; the largest take some ten seconds of an idle core.
DRAWING_TIMEOUT = 180.0
# The folder of the packages.
ROOT = Path(__file__).parents[2]


class ThumbnailError(Exception):
    """A result could not be drawn; the message says why."""


class _Process:
    """A running process of `miner.monitor.thumbnail_worker`."""

    def __init__(
        self, process: asyncio.subprocess.Process, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader
    ) -> None:
        self._process = process
        self._stdin = stdin
        self._stdout = stdout

    @classmethod
    async def start(cls) -> Self:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": path,
            # Without this the working directory would come first, and neurons/ has a module called miner.
            "PYTHONSAFEPATH": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "miner.monitor.thumbnail_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        return cls(process, process.stdin, process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def request(self, order: dict[str, object]) -> str:
        """Send an order and return the answer, "" if the process has ended."""
        self._stdin.write(json.dumps(order).encode() + b"\n")
        await self._stdin.drain()
        return (await self._stdout.readline()).decode(errors="replace").strip()

    async def kill(self) -> None:
        if self.is_running:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class ThumbnailWorker:
    """Draws thumbnails in a process that is started when it is needed; one call at a time."""

    def __init__(self) -> None:
        """Start no process yet."""
        self._process: _Process | None = None

    async def draw(self, results: Path, key: int, pictures: Path) -> None:
        """Draw the result `key` of the folder `results` into the folder `pictures`. Raises ThumbnailError."""
        order = {"results": str(results), "key": key, "pictures": str(pictures)}
        try:
            async with asyncio.timeout(DRAWING_TIMEOUT):
                if self._process is None or not self._process.is_running:
                    self._process = await _Process.start()
                answer = await self._process.request(order)
        except (OSError, TimeoutError) as error:
            await self.close()
            raise ThumbnailError(f"{type(error).__name__} {error}".strip()) from None
        except BaseException:
            # An answer that comes later must not be taken for that to the next order.
            await self.close()
            raise
        if not answer:
            await self.close()
            raise ThumbnailError("the worker process has ended")
        if answer != "ok":
            raise ThumbnailError(answer)

    async def close(self) -> None:
        """End the process, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            await process.kill()
