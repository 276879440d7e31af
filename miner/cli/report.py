"""What the ledger says: how much is accepted, by whom and with which settings, and how sure that is.

    python scripts/report.py [--since 24h | 2025-11-04] [--by phase|validator|type|hour] [--ledger FILE]
                             [--format text|json|csv|html] [-o FILE]

A rate is that of the accepted among the judged results, with its 95 % Wilson interval. The miner may go on meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from miner.analytics.aggregate import COMPARED, GROUPINGS, By, Report, Summary, report
from miner.analytics.report.html import page
from miner.analytics.report.text import as_text, emptiness
from miner.errors import OperatorError
from miner.ledger.reader import ExperimentRow, LedgerReader, TaskRow
from miner.ledger.schema import DEFAULT_LEDGER

# Columns that no report needs.
UNUSED = ("generated_at", "seed", "seeds", "candidates", "stages", "cooldown_until", "error")
SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def parse_since(text: str) -> float:
    """Unix seconds of "24h" (m, h, d, w) before now, or of an ISO 8601 time, UTC unless it names a zone."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text):
        return time.time() - float(match[1]) * SECONDS[match[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a span such as 24h or 7d nor a time such as 2025-11-04"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read(path: Path, by: By, since: float) -> Report:
    """Raises OperatorError if the file is no ledger; an absent one has no tasks."""
    if not path.expanduser().exists():
        return report([], by, since, time.time())
    with LedgerReader(path) as reader:
        tasks = reader.tasks(since, without=UNUSED)

        def tasks_of(row: ExperimentRow) -> list[TaskRow]:
            if row.started_at < since:
                return reader.tasks(experiment=row.name, without=UNUSED)
            return [task for task in tasks if task.experiment == row.name]

        experiments = [(row, tasks_of(row)) for row in reader.experiments()]
        return report(tasks, by, since, time.time(), reader.phases(), experiments)


def as_json(told: Report, path: Path) -> str:
    def plain(summary: Summary) -> dict[str, object]:
        return asdict(summary) | {"judged": summary.judged, "verdict": str(summary.verdict)}

    content = asdict(told) | {
        "ledger": str(path),
        "total": plain(told.total),
        "groups": [plain(group) for group in told.groups],
        "experiments": [asdict(e) | {"row": e.row._asdict(), "state": e.decision.state} for e in told.experiments],
        "phases": [phase._asdict() for phase in told.phases],
    }
    return json.dumps(_finite(content), indent=1) + "\n"


def _finite(value: object) -> object:
    """Without infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def as_csv(told: Report, _path: Path) -> str:
    """A row for each group and one, "all", for their sum; of each column the medians and Cliff's delta."""
    text = io.StringIO()
    plain = ["tasks", "accepted", "rejected", "skipped", "other", "rate", "score", "quality"]
    plain += ["seconds_p50", "seconds_p95", "gaussians_p50"]
    compared = [f"{name}_{what}" for name in COMPARED for what in ("accepted_median", "rejected_median", "delta")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "key", *plain, "low", "high", "verdict", *compared])
    for group in (*told.groups, told.total):
        cells = [
            value
            for c in group.contrasts
            for value in (c.accepted_median, c.rejected_median, c.effect.delta if c.effect else None)
        ]
        writer.writerow(
            [group.label, group.key, *(getattr(group, name) for name in plain), *group.interval, group.verdict]
            + (cells or [None] * len(compared))
        )
    return text.getvalue()


FORMATS = {"text": as_text, "json": as_json, "csv": as_csv, "html": page}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--since", default=0.0, type=parse_since, help="24h, 7d, or an ISO 8601 time (default: everything)")
    p.add_argument("--by", choices=GROUPINGS, default="phase")
    p.add_argument("--ledger", type=Path, default=DEFAULT_LEDGER, help=f"default: {DEFAULT_LEDGER}")
    p.add_argument("--format", choices=FORMATS, default="text")
    p.add_argument("-o", dest="output", type=Path, metavar="FILE", help="instead of stdout")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 after one line on stderr when it cannot be done."""
    options = parser().parse_args(arguments)
    try:
        told = read(options.ledger, options.by, options.since)
        if not told.total.tasks and options.format != "text":
            print(emptiness(told, options.ledger), file=sys.stderr)
        text = FORMATS[options.format](told, options.ledger)
        if options.output is None:
            print(text, end="")
        else:
            options.output.write_text(text, encoding="utf-8")
    except OperatorError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ERROR: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # A hundred thousand rows are looked through for garbage again and again, and there is none in a process this short.
    gc.disable()
    sys.exit(main())
