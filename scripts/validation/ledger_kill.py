"""Kill a process that writes to the ledger, again and again, and check what is left.

    python -m scripts.validation.ledger_kill [--rounds 200] [--seed 0]

All rounds share one file. In every other round the writer waits for each record to be written before the next, so that
at most one may be missing; in the others it records in bursts, and the file must hold all records up to some point. The
last line is JSON. Recorded results: ledger_kill.md beside this file.
"""

import argparse
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from miner.ledger import SPLAT_COLUMNS, LedgerReader, LedgerWriter, Outcome, PhaseAssignment, TaskRow, events

EVENTS_PER_TASK = 3
MAX_BURST = 200
FLUSH_TIMEOUT = 60.0


@dataclass(frozen=True)
class Round:
    """What one writer recorded, knew to be written when it was killed, and left in the file; and what is wrong."""

    recorded: int
    written: int
    found: int
    problems: tuple[str, ...]


def task_events(ledger: LedgerWriter, number: int, phase: str) -> Iterator[events.Event]:
    """Yield the events of a task from assignment to feedback, each with `number` in it."""
    key, statistics = ledger.new_key(), dict.fromkeys(SPLAT_COLUMNS, float(number))
    assignment = PhaseAssignment(phase, "0" * 12, None)
    yield events.TaskStarted(key, time.time(), "pull", "5" * 48, 27, str(number), "image", assignment, "1.0")
    yield events.ResultGenerated(key, time.time(), number, (number,), {"structure": 1.0}, statistics, 0.7, number)
    yield events.SubmissionAnswered(key, time.time(), Outcome.ACCEPTED, score=0.7, cooldown_until=number + 1)


def write_forever(path: Path, phase: str, paced: bool, progress: Connection) -> None:
    """Record tasks until killed; send the numbers of events recorded and written as they grow."""
    ledger = LedgerWriter(path)
    rng = random.Random(phase)  # noqa: S311
    recorded = written = burst = 0
    for number in itertools.count():
        for event in task_events(ledger, number, phase):
            recorded += 1
            progress.send((recorded, written))
            ledger.record(event)
            burst -= 1
            if (paced or burst <= 0) and ledger.flush(FLUSH_TIMEOUT):
                written = recorded
                progress.send((recorded, written))
                burst = rng.randint(1, MAX_BURST)


def count_events(row: TaskRow) -> int:
    """Return the number of events of a task that are in the ledger."""
    return 3 if row.outcome is not None else 2 if row.seed is not None else 1


def check_ledger(path: Path, phase: str, paced: bool, recorded: int, written: int) -> Round:
    """Compare what the writer reported with what is in the file."""
    with closing(sqlite3.connect(path)) as database:
        integrity = database.execute("PRAGMA integrity_check").fetchone()[0]
    with LedgerReader(path) as reader:
        rows = [row for row in reader.tasks() if row.phase == phase]
    found = sum(count_events(row) for row in rows)
    problems = []
    if integrity != "ok":
        problems.append(f"integrity: {integrity}")
    if [row.task_id for row in rows] != [str(number) for number in range(len(rows))]:
        problems.append("a task is missing before the last")
    if any(count_events(row) < EVENTS_PER_TASK for row in rows[:-1]):
        problems.append("an event is missing before the last task")
    if found < written:
        problems.append(f"{written} were written, {found} are left")
    if paced and recorded - found > 1:
        problems.append(f"{recorded} were recorded one by one, {found} are left")
    if any(row.gaussians != int(row.task_id) or row.score != 0.7 for row in rows[:-1]):
        problems.append("a row has other values than were recorded")
    return Round(recorded, written, found, tuple(problems))


def kill_once(path: Path, phase: str, paced: bool, delay: float) -> Round:
    """Start a writer, kill it `delay` seconds after its first record was written, and check the file."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    writer = context.Process(target=write_forever, args=(path, phase, paced, sender))
    writer.start()
    # The writer's is the only other end then, so that its death ends the connection.
    sender.close()
    recorded = written = 0
    while written == 0:
        recorded, written = receiver.recv()
    end = time.monotonic() + delay
    while (remaining := end - time.monotonic()) > 0:
        if receiver.poll(remaining):
            recorded, written = receiver.recv()
    writer.kill()
    writer.join()
    # The last message may have been cut off.
    with receiver, suppress(EOFError, OSError):
        while True:
            recorded, written = receiver.recv()
    return check_ledger(path, phase, paced, recorded, written)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        for number in range(options.rounds):
            rounds.append(kill_once(path, f"round {number}", number % 2 == 0, rng.uniform(0.0, 0.25)))
            for problem in rounds[-1].problems:
                print(f"round {number}: {problem}")
    paced, bursts = rounds[::2], rounds[1::2]
    summary = {
        "kills": len(rounds),
        "rounds_with_problems": sum(bool(r.problems) for r in rounds),
        "events_found": sum(r.found for r in rounds),
        "paced_rounds_that_lost_one": sum(r.recorded - r.found == 1 for r in paced),
        "most_lost_paced": max(r.recorded - r.found for r in paced),
        "written_but_lost": sum(max(r.written - r.found, 0) for r in rounds),
        "most_waiting_in_bursts": max((r.recorded - r.found for r in bursts), default=0),
    }
    print(json.dumps(summary))
    return 1 if summary["rounds_with_problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
