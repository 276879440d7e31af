"""Rows of the ledger with plausible values."""

import json
from typing import Any

from miner.ledger.outcomes import Outcome
from miner.ledger.reader import TaskRow

# A whole hour, after all tasks that `task_row` makes.
NOW = 1_761_998_400.0


def task_row(number: int, outcome: str | None, **changes: object) -> TaskRow:
    """Return the row of a pulled task of phase3, assigned `number` seconds after 100 hours before NOW."""
    plain: dict[str, object] = dict.fromkeys(TaskRow._fields)
    at = changes.get("assigned_at", NOW - 360_000.0 + number)
    plain |= {
        "key": number,
        "assigned_at": at,
        "transport": "pull",
        "validator": "5Alpha9999",
        "uid": 27,
        "task_id": str(number),
        "task_type": "image",
        "phase": "phase3",
        "config_hash": "1a2b3c4d5e6f",
        "code_version": "1",
        "outcome": outcome,
        "answered_at": at + 20.0 if outcome else None,  # type: ignore[operator]
        "score": 0.7 if outcome == Outcome.ACCEPTED else None,
        "submissions": 1,
        "gaussians": 1000 * number,
        "generation_seconds": float(number),
    }
    return TaskRow(**(plain | changes))  # type: ignore[arg-type]


def seeds_of(row: TaskRow) -> tuple[int, ...]:
    return tuple(json.loads(row.seeds or "[]"))


def candidates_of(row: TaskRow) -> list[dict[str, Any]]:
    return list(json.loads(row.candidates or "[]"))
