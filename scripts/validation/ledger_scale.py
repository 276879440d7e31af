"""Measure the time of a report on many tasks, and the cost of writing to the ledger.

    python -m scripts.validation.ledger_scale [--tasks 100000]

Fills a ledger with plausible tasks of two phases, seven validators and both types in one transaction; writes the events
of a thousand more one by one, as the miner does; then runs `sn17-miner report` as a process for each grouping and each
format. The last line is JSON. Recorded results: ledger_scale.md beside this file.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miner.analytics import DIMENSIONS
from miner.ledger import LedgerWriter
from miner.localnet import fill_ledger, synthesise_events

SINGLE_TASKS = 1000
RUNS = 5
FORMATS = ("json", "csv", "html")


def write_one_by_one(path: Path) -> tuple[float, float]:
    """Return the microseconds that record() takes, and the milliseconds until a record is on disk, on average."""
    ledger = LedgerWriter(path)
    events = list(synthesise_events(SINGLE_TASKS))
    started = time.perf_counter()
    for event in events:
        ledger.record(event)
    recorded = time.perf_counter() - started
    ledger.close(300)
    return 1e6 * recorded / len(events), 1e3 * (time.perf_counter() - started) / len(events)


def report_seconds(state: Path, *arguments: str) -> tuple[float, float]:
    """Return the median wall time and the median processor time of a report's process."""
    wall_times, processor_times = [], []
    command = [sys.executable, "-m", "miner", "report", "--state", str(state), *arguments]
    for _ in range(RUNS):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_times.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor_times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(wall_times)), float(np.median(processor_times))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        ledger = state / "ledger.sqlite"
        fill_ledger(ledger, options.tasks)
        record_us, write_ms = write_one_by_one(state / "one-by-one.sqlite")
        figures: dict[str, float] = {"tasks": options.tasks, "megabytes": ledger.stat().st_size / 1e6}
        figures |= {"record_us": record_us, "write_ms": write_ms}
        reports: dict[str, tuple[str, str]] = {f"by {name}": ("--by", name) for name in DIMENSIONS}
        reports |= {name: ("--format", name) for name in FORMATS}
        for name, arguments in reports.items():
            figures[f"{name}, wall"], figures[f"{name}, processor"] = report_seconds(state, *arguments)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
