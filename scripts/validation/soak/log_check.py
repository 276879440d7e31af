"""Errors in the miner's log, and which of them the faults of their time explain."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.validation.fault_scene import LOG_LINE
from scripts.validation.soak.faulty_miner import INJECTED

# Words that tell of an exception that nobody expected, at whatever level.
UNEXPECTED = re.compile(r"Traceback \(most recent call last\)|unexpectedly|is restarted in|never retrieved")


@dataclass(frozen=True)
class FaultRecord:
    """A fault that happened: when it began and was undone, what was done, and the errors that it explains.

    aftermath: how long after it was undone what it brought about may show.
    """

    name: str
    began: float
    ended: float
    words: str
    explains: tuple[str, ...]
    aftermath: float = 15.0


@dataclass(frozen=True)
class LogEntry:
    """A line of the log with the lines that follow it without a time of their own, such as a traceback."""

    at: float
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it tells of something that should not happen without a fault."""
        first = self.text.partition("\n")[0]
        is_ours = LOG_LINE.match(first) is not None
        return not is_ours or "| ERROR |" in first or "| CRITICAL |" in first or bool(UNEXPECTED.search(self.text))


def to_entries(lines: Iterable[tuple[float, str]]) -> list[LogEntry]:
    """Return the entries that the lines of a log make up, without those that tell of an ordered fault."""
    entries: list[LogEntry] = []
    for at, line in lines:
        if line.startswith(INJECTED):
            continue
        is_continuation = entries and not LOG_LINE.match(line) and (line[:1].isspace() or "Traceback" in line)
        has_traceback = entries and "Traceback" in entries[-1].text and not LOG_LINE.match(line)
        if is_continuation or has_traceback:
            entries[-1] = LogEntry(entries[-1].at, f"{entries[-1].text}\n{line}")
        else:
            entries.append(LogEntry(at, line))
    return entries


def find_unexplained(entries: Iterable[LogEntry], faults: Sequence[FaultRecord]) -> list[LogEntry]:
    """Return the errors that no fault of their time explains."""
    return [entry for entry in entries if entry.is_error and not _is_explained(entry, faults)]


def _is_explained(entry: LogEntry, faults: Sequence[FaultRecord]) -> bool:
    return any(
        fault.began <= entry.at <= fault.ended + fault.aftermath
        and "Traceback" not in entry.text
        and any(re.search(pattern, entry.text) for pattern in fault.explains)
        for fault in faults
    )
