"""The worker process that draws thumbnails of results, as the gallery uses it."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

# Seconds for one result; the largest take some ten seconds of an idle core.
DRAWING_TIMEOUT = 180.0
# The folder of the packages.
ROOT = Path(__file__).parents[2]


Picture = Literal["thumbnails", "prompt", "views"]


class ThumbnailError(Exception):
    """A result could not be drawn; the message says why."""


class ThumbnailWorker:
    """Draws thumbnails in a process that is started when it is needed; one call at a time."""

    def __init__(self, *, is_idle: bool = True) -> None:
        """Start no process yet; an idle one runs only while the CPU has nothing else to do."""
        self._is_idle = is_idle
        self._process: asyncio.subprocess.Process | None = None

    async def draw(self, results: Path, key: int, pictures: Path, what: Picture = "thumbnails") -> None:
        """Draw the result `key` of the folder `results` into the folder `pictures`. Raises ThumbnailError.

        See `thumbnail_worker` for what is drawn.
        """
        order: dict[str, object] = {"results": str(results), "key": key, "pictures": str(pictures), "what": what}
        try:
            async with asyncio.timeout(DRAWING_TIMEOUT):
                if self._process is None or self._process.returncode is not None:
                    self._process = await _start_process(self._is_idle)
                answer = await _request(self._process, order)
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
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _start_process(is_idle: bool) -> asyncio.subprocess.Process:
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        # Without this the working directory would come first, and neurons/ has a module called miner.
        "PYTHONSAFEPATH": "1",
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "miner.monitor.thumbnail_worker", *(["--idle"] if is_idle else [])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )


async def _request(process: asyncio.subprocess.Process, order: dict[str, object]) -> str:
    """Send an order and return the answer, "" if the process has ended."""
    assert process.stdin is not None and process.stdout is not None, "they are pipes"
    process.stdin.write(json.dumps(order).encode() + b"\n")
    await process.stdin.drain()
    return (await process.stdout.readline()).decode(errors="replace").strip()
