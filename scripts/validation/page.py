"""Measure how long the figures of the operator's page take, with a ledger of many tasks.

    OMP_NUM_THREADS=1 python -m scripts.validation.page [--tasks 20000]

For each period, what the server does for one answer: reading the ledger, summing up, and writing JSON. The last line is
JSON. Recorded results: page.md beside this file.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from miner.analytics import PERIODS, TaskFilter, read_dashboard_view
from miner.localnet import TASKS_PER_HOUR, fill_ledger

RUNS = 9


def milliseconds(ledger: Path, seconds: float) -> dict[str, float]:
    """Return the median wall and processor time of the figures of the last `seconds`, and the size of their JSON."""
    wall, processor, size = [], [], 0
    for _ in range(RUNS):
        started, before = time.perf_counter(), time.process_time()
        size = len(json.dumps(read_dashboard_view(ledger, TaskFilter(time.time() - seconds))))
        wall.append(1000 * (time.perf_counter() - started))
        processor.append(1000 * (time.process_time() - before))
    return {"wall": round(statistics.median(wall)), "processor": round(statistics.median(processor)), "bytes": size}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    tasks = parser.parse_args().tasks
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        fill_ledger(ledger, tasks, time.time() - tasks / TASKS_PER_HOUR * 3600)
        print(json.dumps({"tasks": tasks} | {name: milliseconds(ledger, seconds) for name, seconds in PERIODS.items()}))


if __name__ == "__main__":
    main()
