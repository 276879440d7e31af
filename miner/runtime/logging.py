"""The log: one clear line per event, UTC, and the line that tells how a result was made, with its inverse.

Operators cut numbers out of it with grep and awk: after `Score=`, before ` gaussians` of `Final stats:`, and in
`TRELLIS generation took 10.4 seconds`. These shapes are kept, and strangers' words cannot take them on.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

PACKAGES = ("miner", "pipeline")
LOG_FORMAT = "%(asctime)s | %(levelname)s | %(message)s"
FILE_NAME = "miner.log"
# Of one file; housekeeping deletes the old ones.
FILE_BYTES = 20_000_000
MOST_FILES = 100
SHAPES = re.compile(r"(Score|Final stats|generation) ?(=|:|took)", re.IGNORECASE)


def _formatter() -> logging.Formatter:
    formatter = logging.Formatter(LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def configure(debug: bool) -> None:
    """Log our packages to stdout; must run after bittensor's import, which silences the loggers that exist."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_formatter())
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        for name, child in logging.root.manager.loggerDict.items():
            if name.startswith(f"{package}.") and isinstance(child, logging.Logger):
                child.setLevel(logging.NOTSET)
                child.disabled = False


class LogFile(RotatingFileHandler):
    """Files miner.log, miner.log.1 and so on in a folder; one that cannot be written is reported once."""

    def __init__(self, folder: Path, size: int) -> None:
        """`size`: bytes after which a new file is begun. Raises OSError if the folder cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / FILE_NAME, maxBytes=size, backupCount=MOST_FILES, encoding="utf-8", delay=True)
        self.setFormatter(_formatter())
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk must not fill stderr with a traceback for each line."""
        if not self._told:
            self._told = True
            print(f"ERROR: {self.baseFilename} cannot be written: {sys.exception()}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """What cannot be written any more is lost."""
        with suppress(OSError):
            super().close()


def write_to(folder: Path, size: int = FILE_BYTES) -> LogFile | None:
    """Log into files in this folder, too, until `stop_writing`; None, with a warning, if it cannot be made."""
    try:
        handler = LogFile(folder, size)
    except OSError as error:
        logging.getLogger(__name__).warning("No log is kept in %s: %s", folder, error.strerror)
        return None
    for package in PACKAGES:
        logging.getLogger(package).addHandler(handler)
    return handler


def stop_writing(handler: LogFile | None) -> None:
    """Close the files."""
    if handler is not None:
        for package in PACKAGES:
            logging.getLogger(package).removeHandler(handler)
        handler.close()


def quoted(words: str) -> str:
    """A stranger's words as part of a line: printable, and in none of the shapes that numbers are cut out of."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    return SHAPES.sub(r"\1_\2", printable)


def shown(name: str) -> str:
    """A stranger's name for something as one short word, so that it cannot forge lines of the log."""
    return re.sub(r"[^\w.:-]", "?", name)[:64] or "?"


@dataclass(frozen=True)
class ResultLine:
    """How one result was made: seconds of each stage, the number of gaussians, bytes of what is sent.

    `candidates`: how many it is the best of; `quality`: None if it was not scored.
    """

    task_id: str
    seconds: dict[str, float]
    gaussians: int
    size: int
    candidates: int = 1
    quality: float | None = None

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        count = f"{round(self.gaussians / 1000)}K" if self.gaussians >= 1000 else str(self.gaussians)
        # One stage is called gaussians, too, so stages come after the count.
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in self.seconds.items())
        scored = "" if self.quality is None else f"; best of {self.candidates}, quality {self.quality:.3f}"
        return (
            f"Task {self.task_id}: TRELLIS generation took {total:.1f} seconds. "
            f"Final stats: {count} gaussians ({self.gaussians}), {self.size} bytes; seconds: {stages}"
            f"{scored}"
        )

    @staticmethod
    def parse(line: str) -> ResultLine | None:
        """The inverse of str(), from a whole log line; None for other lines."""
        match = re.search(
            r"Task (\S+): TRELLIS generation took [\d.]+ seconds\. "
            r"Final stats: \d+K? gaussians \((\d+)\), (\d+) bytes; seconds: ([^;]*)"
            r"(?:; best of (\d+), quality ([\d.]+))?",
            line,
        )
        if match is None:
            return None
        stages = (stage.rsplit(" ", 1) for stage in match[4].split(", "))
        seconds = {name: float(value) for name, value in stages}
        scored = (int(match[5]), float(match[6])) if match[5] else ()
        return ResultLine(match[1], seconds, int(match[2]), int(match[3]), *scored)
