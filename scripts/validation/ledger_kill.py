"""Kill a process that writes to the ledger, again and again, and look at what is left.

    python scripts/proofs/ledger_kill.py [--rounds 200] [--seed 0]

All rounds share one file. In every other round the writer waits for each record to be written before the next, so that
at most one may be missing; in the others it records in bursts, and what is there must be all up to some point. The last
line is JSON. Recorded results: ledger_kill.md beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from miner.ledger.events import Event, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.reader import LedgerReader, TaskRow
from miner.ledger.schema import SPLAT_COLUMNS
from miner.ledger.writer import LedgerWriter

EVENTS_OF_A_TASK = 3
LONGEST_BURST = 200


def life(ledger: LedgerWriter, number: int, phase: str) -> Iterator[Event]:
    """A task from assignment to feedback; `number` stands in each of its events."""
    key, figures = ledger.new_key(), dict.fromkeys(SPLAT_COLUMNS, float(number))
    yield TaskStarted(key, time.time(), "pull", "5" * 48, 27, str(number), "image", phase, "0" * 12, "1.0")
    yield ResultGenerated(key, time.time(), number, (number,), {"structure": 1.0}, figures, 0.7, number)
    yield SubmissionAnswered(key, time.time(), "accepted", score=0.7, cooldown_until=number + 1)


def write(path: Path, phase: str, paced: bool) -> None:
    """Until killed: say `r N` before each record, and `w N` once the first N are written."""
    ledger = LedgerWriter(path)
    ledger.start()
    rng = random.Random(phase)  # noqa: S311
    recorded = burst = 0
    for number in itertools.count():
        for event in life(ledger, number, phase):
            recorded += 1
            os.write(1, b"r %d\n" % recorded)
            ledger.record(event)
            burst -= 1
            if (paced or burst <= 0) and ledger.flush(60):
                os.write(1, b"w %d\n" % recorded)
                burst = rng.randint(1, LONGEST_BURST)


@dataclass(frozen=True)
class Round:
    """Of one writer: events recorded, known to be written when it was killed, found in the file; and what is wrong."""

    recorded: int
    written: int
    found: int
    problems: tuple[str, ...]


def events_of(row: TaskRow) -> int:
    """How many events of a task have arrived."""
    return 3 if row.outcome is not None else 2 if row.seed is not None else 1


def look(path: Path, phase: str, paced: bool, output: bytes) -> Round:
    """Compare what the writer said with what is in the file."""
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
    recorded, written = (max((int(n) for kind, n in lines if kind == which), default=0) for which in (b"r", b"w"))
    with closing(sqlite3.connect(path)) as database:
        integrity = database.execute("PRAGMA integrity_check").fetchone()[0]
    with LedgerReader(path) as reader:
        rows = [row for row in reader.tasks() if row.phase == phase]
    found = sum(events_of(row) for row in rows)
    problems = []
    if integrity != "ok":
        problems.append(f"integrity: {integrity}")
    if [row.task_id for row in rows] != [str(number) for number in range(len(rows))]:
        problems.append("a task is missing before the last")
    if any(events_of(row) < EVENTS_OF_A_TASK for row in rows[:-1]):
        problems.append("an event is missing before the last task")
    if found < written:
        problems.append(f"{written} were written, {found} are left")
    if paced and recorded - found > 1:
        problems.append(f"{recorded} were recorded one by one, {found} are left")
    if any(row.gaussians != int(row.task_id) or row.score != 0.7 for row in rows[:-1]):
        problems.append("a row has other values than were recorded")
    return Round(recorded, written, found, tuple(problems))


def kill_once(path: Path, phase: str, paced: bool, after: float) -> Round:
    """Start a writer, kill it `after` seconds after its first record was written, and look."""
    command = [sys.executable, __file__, "--write", str(path), "--phase", phase, *(["--paced"] if paced else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        output = b""
        while b"w" not in output:
            output += os.read(writer.stdout.fileno(), 4096)
        os.set_blocking(writer.stdout.fileno(), False)
        end = time.monotonic() + after
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))
            output += writer.stdout.read() or b""
        writer.kill()
        writer.wait()
        output += writer.stdout.read() or b""
    return look(path, phase, paced, output)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--paced", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.phase, options.paced)
    rng = random.Random(options.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        rounds = []
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
