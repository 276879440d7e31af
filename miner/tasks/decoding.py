"""Decoding of prompts as strangers send them: pictures in processes that can be killed, in turn for each sender."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from miner.runtime import run_in_daemon
from miner.subnet.encoding import decode_prompt
from pipeline import Cancelled, DecoderProcess, DecodingLimits, ImagePrompt, Prompt

Decoded = TypeVar("Decoded")
DecodeImage = Callable[[bytes], ImagePrompt]

# Pictures that are decoded at once. Each sender has one of them at most, so that none can hold up the others.
PROCESSES = 4
# Processes that stay for the next picture: a new one takes a tenth of a second.
WARM_PROCESSES = 1
DEFAULT_LIMITS = DecodingLimits()


@dataclass(eq=False)
class _Decoding:
    """A picture that is waited for: the process that decodes it, None before its turn."""

    process: DecoderProcess | None = None
    is_cancelled: bool = False


class PromptDecoder:
    """Decodes prompts for any event loop of this process; a picture whose sender gives up is abandoned at once."""

    def __init__(self, limits: DecodingLimits = DEFAULT_LIMITS) -> None:
        """Start no process yet."""
        self._limits = limits
        # Guards all that follows; notified whenever a picture may have its turn.
        self._changed = threading.Condition()
        self._senders: set[str] = set()
        self._processes: list[DecoderProcess] = []
        self._is_closed = False

    async def decode(self, task_type: Literal["text", "image"], text: str, sender: str) -> Prompt:
        """Decode a prompt as `decode_prompt` does; `sender` tells whose it is.

        Raises PromptError as it does, and if decoding takes too much time or memory. Raises Cancelled once closed.
        """
        if task_type == "text":
            return decode_prompt(task_type, text)
        return await self._decode_in_turn(sender, lambda decode_image: decode_prompt(task_type, text, decode_image))

    async def decode_image(self, file: bytes, sender: str) -> ImagePrompt:
        """Decode the bytes of an image file. Raises PromptError, see `decode`."""
        return await self._decode_in_turn(sender, lambda decode_image: decode_image(file))

    def close(self) -> None:
        """End all processes; further pictures are refused."""
        with self._changed:
            self._is_closed = True
            while self._processes:
                self._processes.pop().close()

    async def _decode_in_turn(self, sender: str, decode: Callable[[DecodeImage], Decoded]) -> Decoded:
        """Call `decode` with the function for its picture; when cancelled, return once it no longer works."""
        decoding = _Decoding()
        work = asyncio.ensure_future(run_in_daemon(lambda: self._run(decoding, sender, decode), "image decoder"))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._cancel(decoding)
            # Nobody is left to be told of an error.
            work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.wait({work})
            raise

    def _run(self, decoding: _Decoding, sender: str, decode: Callable[[DecodeImage], Decoded]) -> Decoded:
        with self._changed:
            self._changed.wait_for(lambda: decoding.is_cancelled or self._has_turn(sender))
            if decoding.is_cancelled or self._is_closed:
                raise Cancelled("decoding the image was given up")
            process = self._take_process()
            decoding.process = process
            self._senders.add(sender)
        try:
            return decode(process.decode)
        finally:
            with self._changed:
                self._senders.remove(sender)
                # Whoever has it next is not to be cancelled with this one.
                decoding.process = None
                self._give_back(process)
                self._changed.notify_all()

    def _has_turn(self, sender: str) -> bool:
        return self._is_closed or (sender not in self._senders and len(self._senders) < PROCESSES)

    def _take_process(self) -> DecoderProcess:
        while self._processes:
            process = self._processes.pop()
            if process.is_alive:
                return process
            process.close()
        return DecoderProcess(self._limits)

    def _give_back(self, process: DecoderProcess) -> None:
        if process.is_alive and len(self._processes) < WARM_PROCESSES and not self._is_closed:
            self._processes.append(process)
        else:
            process.close()

    def _cancel(self, decoding: _Decoding) -> None:
        with self._changed:
            decoding.is_cancelled = True
            if decoding.process is not None:
                decoding.process.kill()
            self._changed.notify_all()
