"""What the system tells of a process: its children, its memory, its descriptors and its threads."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ChildProcess:
    """A process that another one has started."""

    pid: int

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Sample:
    """A process at one moment of the steady clock: resident bytes, open files, threads and processes of its own."""

    at: float
    memory: int
    descriptors: int
    threads: int
    children: int


def children(pid: int, word: str = "") -> list[ChildProcess]:
    """Return the children of a process in whose command line a word occurs."""
    found = []
    with suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                with suppress(OSError):
                    if word in (PROC / child / "cmdline").read_bytes().decode(errors="replace"):
                        found.append(ChildProcess(int(child)))
    return found


def take_sample(pid: int) -> Sample | None:
    """Return a sample of a process; None if it has ended."""
    folder = PROC / str(pid)
    try:
        memory = int((folder / "statm").read_text().split()[1]) * PAGE_BYTES
        descriptors = len(list((folder / "fd").iterdir()))
        threads = len(list((folder / "task").iterdir()))
    except (OSError, IndexError):
        return None
    return Sample(time.monotonic(), memory, descriptors, threads, len(children(pid)))
