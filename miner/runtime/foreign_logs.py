"""What other packages log, as one short line of ours each: the SDK, asyncio and the monitor's web server."""

import logging
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

# The SDK colours its lines, and passes on what strangers send.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
MAX_LENGTH = 300
# Seconds in which one place of the code is heard once.
QUIET_SECONDS = 60.0
FOREIGN_LOGGERS = ("bittensor", "asyncio", "aiohttp")


def is_foreign(record: logging.LogRecord) -> bool:
    """Return whether a record comes from another package."""
    return record.name.partition(".")[0] in FOREIGN_LOGGERS


def summarise(record: logging.LogRecord, sanitise: Callable[[str], str]) -> str:
    """Return a record as one line: its package, the message, and the error with the place that it came from."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else ""
        text = f"{text.partition(chr(10))[0]} ({type(error).__name__}: {error}{place})"
    line = sanitise(" ".join(ESCAPES.sub("", text).split()))
    return f"{record.name.partition('.')[0]}: {line[:MAX_LENGTH]}"


@dataclass(eq=False)
class Throttle(logging.Filter):
    """Lets each place of other packages' code through once in a while, so that no stranger can fill the log."""

    now: Callable[[], float] = time.monotonic
    _heard: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Initialise the base class, which is no dataclass."""
        super().__init__()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        if not is_foreign(record):
            return True
        place, now = (record.pathname, record.lineno), self.now()
        if now - self._heard.get(place, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._heard[place] = now
        return True


def adopt(handler: logging.Handler) -> None:
    """Have warnings and errors of other packages written by this handler, and by none of their own."""
    for name in FOREIGN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.disabled = False
        logger.setLevel(logging.WARNING)
