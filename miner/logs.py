"""The log: one clear line per event, UTC, and the line that tells how a result was made, with its inverse."""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass

LOG_FORMAT = "%(asctime)s | %(levelname)s | %(message)s"


def configure(debug: bool) -> None:
    """Log our packages to stdout; must run after bittensor's import, which silences the loggers that exist."""
    formatter = logging.Formatter(LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    for package in ("miner", "pipeline"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        for name, child in logging.root.manager.loggerDict.items():
            if name.startswith(f"{package}.") and isinstance(child, logging.Logger):
                child.setLevel(logging.NOTSET)
                child.disabled = False


def shown(name: str) -> str:
    """A stranger's name for something as one short word, so that it cannot forge lines of the log."""
    return re.sub(r"[^\w.:-]", "?", name)[:64] or "?"


@dataclass(frozen=True)
class ResultLine:
    """How one result was made: seconds of each stage, the number of gaussians, bytes of what is sent."""

    task_id: str
    seconds: dict[str, float]
    gaussians: int
    size: int

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in self.seconds.items())
        total = sum(self.seconds.values())
        return (
            f"Task {self.task_id}: generation took {total:.1f} seconds ({stages}). "
            f"Final stats: {self.gaussians} gaussians, {self.size} bytes"
        )

    @staticmethod
    def parse(line: str) -> ResultLine | None:
        """The inverse of str(), from a whole log line; None for other lines."""
        match = re.search(
            r"Task (\S+): generation took [\d.]+ seconds \((.*)\)\. Final stats: (\d+) gaussians, (\d+) bytes", line
        )
        if match is None:
            return None
        stages = (stage.rsplit(" ", 1) for stage in match[2].split(", "))
        return ResultLine(match[1], {name: float(value) for name, value in stages}, int(match[3]), int(match[4]))
