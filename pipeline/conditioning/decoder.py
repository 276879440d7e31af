"""Decoding of pictures in a process of its own, which ends when a file takes too much time or memory."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from PIL import Image

from pipeline.conditioning.prompt import MAX_IMAGE_SIDE, ImagePrompt, check_image_bytes
from pipeline.errors import PipelineError, PromptError

_WORKER = Path(__file__).with_name("decoder_worker.py")
# Seconds in which the process is ready, on a machine however busy.
_START_TIMEOUT = 60.0
_MODES = ("RGB", "RGBA")
# Bytes of the description of a picture, or of a refusal.
_MAX_LINE = 65_536


@dataclass(frozen=True)
class DecodingLimits:
    """What one picture may take: seconds of CPU time, seconds by the clock, and bytes of address space.

    A busy machine gives the process little of its CPU, hence the longer time by the clock. The largest honest pictures
    (4096x4096 pixels in 16 bits, or of floating-point numbers) need a second and 0.5 GB.
    """

    cpu_seconds: int = 5
    seconds: float = 20.0
    memory: int = 1 << 30


_DEFAULT_LIMITS = DecodingLimits()


class DecoderProcess:
    """A process that decodes pictures, one at a time; `kill` may be called on any thread, all else on one."""

    def __init__(self, limits: DecodingLimits = _DEFAULT_LIMITS) -> None:
        """Start the process, without waiting for it. Raises OSError if the system has none to give."""
        self._limits = limits
        arguments = (limits.memory, limits.cpu_seconds, MAX_IMAGE_SIDE)
        # Without -P the worker's folder would come first among those of the modules.
        self._command = [sys.executable, "-P", str(_WORKER), *map(str, arguments)]
        self._process = subprocess.Popen(  # noqa: S603 - our own file and numbers
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The threads of numpy's libraries would take a part of the memory.
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        self._is_ready = self._is_killed = False
        self._finalizer = weakref.finalize(self, _end, self._process)

    @property
    def is_alive(self) -> bool:
        """Whether the process can decode another picture."""
        return not self._is_killed and self._finalizer.alive and self._process.poll() is None

    def kill(self) -> None:
        """End the process at once; a `decode` in progress raises PipelineError."""
        self._is_killed = True
        self._process.kill()

    def close(self) -> None:
        """End the process and wait until it has."""
        self._finalizer()

    def decode(self, file: bytes) -> ImagePrompt:
        """Decode a picture as `decode_image_prompt` does; it blocks the thread.

        Raises PromptError, too, if decoding takes too much time or memory or crashes; the process is closed then.
        Raises PipelineError if the process did not start, which is not the picture's fault.
        """
        check_image_bytes(file)
        self._wait_until_ready()
        try:
            answer, pixels = self._exchange(file)
        except (OSError, EOFError, ValueError, LookupError, TypeError, RecursionError):
            self.close()
            raise PromptError(
                f"the image cannot be decoded within {self._limits.cpu_seconds} s, or its decoder crashed: save it "
                "again as PNG"
            ) from None
        if answer.get("ends"):
            self.close()
        if "refused" in answer:
            raise PromptError(str(answer["refused"]))
        width, height = answer["size"]
        return ImagePrompt(Image.frombytes(answer["mode"], (width, height), pixels), file)

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        try:
            with self._killed_after(_START_TIMEOUT):
                self._read_line()
        except (OSError, EOFError, ValueError):
            self.close()
            command = " ".join(self._command)
            raise PipelineError(f"the process that decodes pictures does not start; `{command}` shows why") from None
        self._is_ready = True

    def _exchange(self, file: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a file; return the description of its picture, or the refusal, and the pixels.

        Raises OSError or EOFError if the process has ended; ValueError, LookupError, TypeError or RecursionError for an
        answer that it does not give.
        """
        orders, answers = self._process.stdin, self._process.stdout
        assert orders is not None and answers is not None, "they are pipes"
        with self._killed_after(self._limits.seconds):
            orders.write(b"%d\n" % len(file))
            orders.write(file)
            orders.flush()
            answer: dict[str, Any] = json.loads(self._read_line())
            # A file that took over the process could answer anything.
            if not isinstance(answer, dict):
                raise TypeError("not an answer of the worker")
            if "refused" in answer:
                return answer, b""
            width, height = answer["size"]
            if answer["mode"] not in _MODES or not 0 < width <= MAX_IMAGE_SIDE or not 0 < height <= MAX_IMAGE_SIDE:
                raise ValueError("not an answer of the worker")
            size = width * height * len(answer["mode"])
            pixels = answers.read(size)
            if len(pixels) < size:
                raise EOFError
            return answer, pixels

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        timer = Timer(seconds, self.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        return line


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        # What was not yet sent cannot be.
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    process.wait()
