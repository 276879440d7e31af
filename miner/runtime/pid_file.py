"""The claim of one process to a folder: a locked file that names it, and that others can ask for it."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from miner.errors import OperatorError
from miner.runtime.files import opened_folder

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
    with opened_folder(folder) as directory, (folder / NAME).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + CLAIM_SECONDS
        # The folder, too, since the file may be deleted.
        while not (_lock(directory, fcntl.LOCK_EX) and _lock(file.fileno(), fcntl.LOCK_EX)):
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
    with suppress(FileNotFoundError):
        with opened_folder(folder) as directory:
            if not _lock(directory, fcntl.LOCK_SH):
                return _read_name(folder)
        with (folder / NAME).open(encoding="utf-8") as file:
            return None if _lock(file.fileno(), fcntl.LOCK_SH) else _read_name(folder)
    return None


def _lock(descriptor: int, kind: int) -> bool:
    """Return whether the file or folder could be locked, which lasts until it is closed.

    Where the file system cannot lock a folder (NFS), the file in it has to do.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    return True


def _read_name(folder: Path) -> str:
    try:
        pid = (folder / NAME).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        pid = ""
    return f"process {pid}" if pid else "another process"
