import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.ledger.events import ArmAssignment, PhaseAssignment, ResultGenerated, TaskStarted
from miner.ledger.reader import LedgerReader, TaskRow
from miner.ledger.writer import LedgerWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[LedgerWriter]:
    ledger = LedgerWriter(path)
    yield ledger
    ledger.close(10)


class LogWatcher(logging.Handler):
    """Waits for a line of the writer's log that contains some words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._words = words
        self._seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.lines.append(record.getMessage())
            self._seen.set()

    def wait(self) -> str:
        assert self._seen.wait(20), f"nothing was logged about {self._words!r}"
        return self.lines[0]

    def __enter__(self) -> "LogWatcher":
        logging.getLogger("miner.ledger.writer").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("miner.ledger.writer").removeHandler(self)


def task_started(
    ledger: LedgerWriter,
    task_id: str = "t1",
    at: float = 1000.0,
    phase: str = "phase3",
    arm: ArmAssignment | None = None,
    **changes: object,
) -> TaskStarted:
    values: dict[str, object] = {
        "key": ledger.new_key(),
        "at": at,
        "transport": "pull",
        "validator": "5V",
        "uid": 27,
        "task_id": task_id,
        "task_type": "image",
        "assignment": PhaseAssignment(phase, "abc123", arm),
        "code_version": "0.1.0",
    }
    return TaskStarted(**(values | changes))  # type: ignore[arg-type]


def result_generated(key: int, statistics: dict[str, float]) -> ResultGenerated:
    return ResultGenerated(key, 1004.0, 7, (6, 7), {"structure": 1.5, "latents": 2.0}, statistics, 0.64, 4_812_331)


def read_tasks(path: Path) -> list[TaskRow]:
    with LedgerReader(path) as reader:
        return reader.tasks()
