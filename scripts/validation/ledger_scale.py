"""How long a report on many tasks takes, and what the ledger costs while it is written.

    python -m scripts.validation.ledger_scale [--tasks 100000] [--keep FILE]

Fills a ledger with plausible tasks of two phases, seven validators and both types, through SQLite in one go;
writes a thousand more the miner's way; then runs `sn17-miner report` as a process of its own for each grouping and each
form. --keep leaves the ledger in FILE. The last line is JSON. Recorded results: ledger_scale.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miner.analytics.aggregate import GROUPINGS
from miner.ledger.writer import LedgerWriter
from tests.support.invented_ledger import events, fill

RUNS = 5


def write_one_by_one(folder: Path, tasks: int) -> tuple[float, float]:
    """Return the microseconds that record() takes, and the milliseconds until a record is on the disk, on average."""
    ledger = LedgerWriter(folder / "one-by-one.sqlite")
    all_events = list(events(tasks))
    started = time.perf_counter()
    for event in all_events:
        ledger.record(event)
    recorded = time.perf_counter() - started
    ledger.close(300)
    return 1e6 * recorded / len(all_events), 1e3 * (time.perf_counter() - started) / len(all_events)


def seconds_of(path: Path, *arguments: str) -> tuple[float, float]:
    """Return the medians of a whole process's wall time and of its processor time."""
    walls, processors = [], []
    for _ in range(RUNS):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "miner", "report", "--ledger", str(path), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(walls)), float(np.median(processors))


def main() -> int:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "ledger.sqlite"
        fill(path, options.tasks)
        record_us, write_ms = write_one_by_one(Path(folder), 1000)
        found = {"tasks": options.tasks, "megabytes": path.stat().st_size / 1e6}
        found |= {"record_us": record_us, "write_ms": write_ms}
        calls: dict[str, tuple[str, str]] = {f"by {by}": ("--by", by) for by in GROUPINGS}
        calls |= {form: ("--format", form) for form in ("json", "csv", "html")}
        for name, arguments in calls.items():
            found[f"{name}, wall"], found[f"{name}, processor"] = seconds_of(path, *arguments)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
