"""The claim of one process to a folder: a locked file that names it, and that others can ask for it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miner.errors import OperatorError

NAME = "miner.pid"
# Whoever asks holds the lock for an instant, so a claim is tried again for some seconds.
CLAIM_SECONDS = 1.0
CLAIM_PAUSE = 0.05


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Make a folder this process's alone while the context lasts; the claim also ends with the process.

    Raises OperatorError naming the process that has it, or OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + CLAIM_SECONDS
        while not _lock(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"{_read_name(folder)} works on {folder} already: stop it, or give this miner a folder of its own "
                    "with --state"
                )
            time.sleep(CLAIM_PAUSE)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def find_owner(folder: Path) -> str | None:
    """Return the process that has claimed a folder, as in "process 123"; None if there is none. Raise OSError."""
    try:
        with (folder / NAME).open(encoding="utf-8") as file:
            return None if _lock(file.fileno(), fcntl.LOCK_SH) else _read_name(folder)
    except FileNotFoundError:
        return None


def _lock(descriptor: int, kind: int) -> bool:
    """Return whether the file could be locked, which lasts until it is closed."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_name(folder: Path) -> str:
    pid = (folder / NAME).read_text(encoding="utf-8").strip()
    return f"process {pid}" if pid else "another process"
