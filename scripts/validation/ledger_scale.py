"""How long a report on many tasks takes, and what the ledger costs while it is written.

    python scripts/proofs/ledger_scale.py [--tasks 100000] [--keep FILE]

Fills a ledger with plausible tasks of two phases, seven validators and both types, through SQLite in one go;
writes a thousand more the miner's way; then runs scripts/report.py as a process of its own for each grouping and each
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
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np

from miner.analytics.aggregate import GROUPINGS
from miner.analytics.assignment import Experiment
from miner.ledger.events import (
    ArmAssignment,
    Event,
    ExperimentStarted,
    GenerationFailed,
    PhaseChanged,
    ResultGenerated,
    Stratum,
    SubmissionAnswered,
    TaskStarted,
)
from miner.ledger.schema import open_for_writing
from miner.ledger.writer import LedgerWriter

REPORT = Path(__file__).resolve().parents[1] / "report.py"
VALIDATORS = {27: 0.6, 49: 0.4, 81: 0.2, 128: 0.0, 142: -0.2, 199: -0.4, 212: -2.5}
RATES = {"baseline": -0.5, "phase3": 0.2}
EXPERIMENT = Experiment(17, {"phase3": 50, "baseline": 50})
START = 1_762_000_000.0
RUNS = 5


def events(tasks: int, seed: int = 0) -> Iterable[Event]:
    """So many tasks of an invented miner, 84 an hour: a week of each phase, then an experiment of both."""
    rng = np.random.default_rng(seed)
    seconds = tasks / 84 * 3600
    yield PhaseChanged(START, "baseline", "start", "9f0c5a1b2d3e", "note: upstream's values\n")
    yield PhaseChanged(START + seconds / 3, "phase3", "apply", "1a2b3c4d5e6f", "note: the default\n")
    yield ExperimentStarted("2025-11 phase3 baseline", START + seconds * 2 / 3, EXPERIMENT.seed, EXPERIMENT.weights)
    hashes = {"baseline": "9f0c5a1b2d3e", "phase3": "1a2b3c4d5e6f"}
    turns: dict[Stratum, int] = {}
    for number in range(tasks):
        at = START + seconds * number / tasks
        uid = int(rng.choice(list(VALIDATORS)))
        stratum = Stratum(f"5Validator{uid:038d}", "text" if rng.random() < 0.2 else "image")
        draw, phase = None, "baseline" if number < tasks / 3 else "phase3"
        if number > tasks * 2 / 3:
            turn = turns[stratum] = turns.get(stratum, -1) + 1
            phase = EXPERIMENT.arm(stratum, turn)
            draw = ArmAssignment("2025-11 phase3 baseline", phase, turn)
        yield TaskStarted(
            *(number + 1, at, "pull", stratum.validator, uid, f"task-{number}"),
            task_type="text" if stratum.task_type == "text" else "image",
            phase=phase,
            config_hash=hashes[phase],
            code_version="0.1.0",
            draw=draw,
        )
        if rng.random() < 0.02:
            yield GenerationFailed(number + 1, at + 3, "InvalidResult: fewer than 7000 gaussians")
            yield SubmissionAnswered(number + 1, at + 4, "skipped")
            continue
        gaussians = int(rng.lognormal(12.7, 0.35))
        quality = RATES[phase] + VALIDATORS[uid] + 1.2 * (np.log(gaussians) - 12.7) + rng.normal(0, 0.5)
        stages = {"structure": rng.normal(1.5, 0.1), "latents": rng.gamma(4.0, 0.5), "gaussians": 0.2}
        yield ResultGenerated(
            *(number + 1, at + sum(stages.values()), number, (number, number + 1), stages),
            statistics=figures_of(rng, gaussians),
            local_score=float(0.6 + 0.05 * quality + rng.normal(0, 0.04)),
            submission_bytes=13 * gaussians,
        )
        outcome = "not_validated" if rng.random() < 0.01 else "accepted" if rng.logistic() < quality else "rejected"
        score = float(np.clip(0.6 + rng.gamma(2.0, 0.04), 0.6, 0.95)) if outcome == "accepted" else 0.0
        yield SubmissionAnswered(number + 1, at + 12, outcome, score=score, cooldown_until=at + 300)


def figures_of(rng: np.random.Generator, gaussians: int) -> dict[str, float]:
    """Statistics of splats that nobody made."""
    half = rng.uniform(0.2, 0.5, 3)
    corners = {
        f"box_{end}_{axis}": s * h for end, s in (("min", -1), ("max", 1)) for axis, h in zip("xyz", half, strict=True)
    }
    others = ("opacity_min", "opacity_mean", "opacity_max", "transparent_share", "scale_p5", "scale_p50", "scale_p95")
    return {
        "gaussians": gaussians,
        "volume": float(8 * half.prod()),
        "density_max": float(rng.poisson(gaussians / 4000)),
        "density_mean": gaussians / 12_000,
        **{name: float(value) for name, value in corners.items()},
        **{name: float(rng.random()) for name in others},
    }


def fill(path: Path, tasks: int) -> None:
    """In one transaction, which the miner never does."""
    with closing(open_for_writing(path)) as database:
        database.execute("BEGIN")
        for event in events(tasks):
            database.execute(*event.statement())
        database.execute("COMMIT")


def write_one_by_one(folder: Path, tasks: int) -> tuple[float, float]:
    """Microseconds that record() takes, and milliseconds until a record is on the disk, on average."""
    ledger = LedgerWriter(folder / "one-by-one.sqlite")
    ledger.start()
    told = list(events(tasks))
    started = time.perf_counter()
    for event in told:
        ledger.record(event)
    recorded = time.perf_counter() - started
    ledger.close(300)
    return 1e6 * recorded / len(told), 1e3 * (time.perf_counter() - started) / len(told)


def seconds_of(path: Path, *arguments: str) -> tuple[float, float]:
    """The medians of a whole process's wall time and of its processor time."""
    walls, processors = [], []
    for _ in range(RUNS):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, str(REPORT), "--ledger", str(path), *arguments], check=True, stdout=subprocess.DEVNULL
        )
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(walls)), float(np.median(processors))


def main() -> int:
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
