"""The log: one line an event in UTC, on stdout and in files, and the line that says how a result was made.

Operators cut numbers out of it with grep and awk: after `Score=`, which every judged result has and which is 0.00 for
rejected ones, before ` gaussians` of `Final stats:`, and in `TRELLIS generation took 10.4 seconds`. These shapes must
not change, and text from outside must not imitate them.
"""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from miner.runtime.foreign_logs import FOREIGN_LOGGERS, Throttle, adopt, is_foreign, summarise

log = logging.getLogger(__name__)

PACKAGES = ("miner", "pipeline")
LOG_FORMAT = "%(asctime)s | %(levelname)s | %(message)s"
FILE_NAME = "miner.log"
# Bytes after which a new file is begun; retention deletes the old ones.
FILE_BYTES = 20_000_000
MAX_FILES = 100
OPERATOR_SHAPES = re.compile(r"(Score|Final stats|generation) ?(=|:|took)", re.IGNORECASE)


class LineFormatter(logging.Formatter):
    """Formats each record as one line in UTC; tracebacks follow those of our own packages only."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        """Use the format of all our logs."""
        super().__init__(LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        if is_foreign(record):
            line = summarise(record, sanitise_text)
            record = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, line, None, None)
        return super().format(record)


def configure(debug: bool) -> None:
    """Log to stdout, at level DEBUG or INFO. Call it after the import of bittensor, which silences existing loggers."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    handler.addFilter(Throttle())
    adopt(handler)
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
    """A handler that writes miner.log, miner.log.1 and so on, and reports once if it cannot write them."""

    def __init__(self, folder: Path, file_bytes: int) -> None:
        """Begin a new file after `file_bytes` bytes. Raises OSError if the folder cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / FILE_NAME, maxBytes=file_bytes, backupCount=MAX_FILES, encoding="utf-8", delay=True)
        self.setFormatter(LineFormatter())
        self.addFilter(Throttle())
        self._has_reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Report the first error only: a full disk must not fill stderr with a traceback for each line."""
        if not self._has_reported:
            self._has_reported = True
            print(f"ERROR: {self.baseFilename} cannot be written: {sys.exception()}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Close the file; lines that can no longer be written are lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to_files(folder: Path, file_bytes: int = FILE_BYTES) -> Iterator[None]:
    """Write the log to files in this folder, too, while the context lasts; only warn if the folder cannot be made."""
    try:
        handler = LogFile(folder, file_bytes)
    except OSError as error:
        log.warning("No log files are written to %s: %s", folder, error.strerror)
        yield
        return
    loggers = [logging.getLogger(name) for name in (*PACKAGES, *FOREIGN_LOGGERS)]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def sanitise_text(text: str) -> str:
    """Return text from outside without anything that is unprintable or that operators would cut out of the line."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return OPERATOR_SHAPES.sub(r"\1_\2", printable)


def sanitise_name(name: str) -> str:
    """Return a name from outside as one short word, so that it cannot forge lines of the log."""
    return re.sub(r"[^\w.:-]", "?", name)[:64] or "?"


@dataclass(frozen=True)
class ResultLine:
    """How a result was made: seconds by stage, gaussians, bytes, candidates, and the parts of its score as a text."""

    task_id: str
    seconds: dict[str, float]
    gaussians: int
    size: int
    candidates: int = 1
    score: str = ""

    def __str__(self) -> str:
        """Return the log line."""
        total = sum(self.seconds.values())
        count = f"{round(self.gaussians / 1000)}K" if self.gaussians >= 1000 else str(self.gaussians)
        # One of the stages is called gaussians, too, so the stages come after the count.
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in self.seconds.items())
        scored = f"; best of {self.candidates}, {self.score}" if self.score else ""
        return (
            f"Task {self.task_id}: TRELLIS generation took {total:.1f} seconds. "
            f"Final stats: {count} gaussians ({self.gaussians}), {self.size} bytes; seconds: {stages}{scored}"
        )

    @staticmethod
    def parse(line: str) -> "ResultLine | None":
        """Read a result line out of a whole line of the log; return None for other lines."""
        match = re.search(
            r"Task (\S+): TRELLIS generation took [\d.]+ seconds\. "
            r"Final stats: \d+K? gaussians \((\d+)\), (\d+) bytes; seconds: ([^;]*)"
            r"(?:; best of (\d+), (.+))?",
            line,
        )
        if match is None:
            return None
        stages = (stage.rsplit(" ", 1) for stage in match[4].split(", "))
        seconds = {name: float(value) for name, value in stages}
        scored = (int(match[5]), match[6]) if match[5] else ()
        return ResultLine(match[1], seconds, int(match[2]), int(match[3]), *scored)
