"""The sums of the ledger's tasks as the dashboard's JSON: rates over time, by phase and by validator."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from miner.analytics.aggregate import HOUR, Group, TaskTable
from miner.analytics.intervals import Quantiles
from miner.analytics.rating import DEFAULT_SCALE, AcceptanceRate, Scale
from miner.ledger import TaskRow

# The periods that the page offers, in hours, and the width in seconds of the bins that each is cut into.
PERIODS = {6: 900, 24: HOUR, 168: 6 * HOUR, 720: 24 * HOUR}

Json = dict[str, Any]


def build_dashboard_view(tasks: Sequence[TaskRow], now: float, hours: int, scale: Scale = DEFAULT_SCALE) -> Json:
    """Sum up tasks in the order of their assignment, rated on a scale; `hours` is one of PERIODS.

    Phases are told apart by name and settings, the one that ran last first; validators by hotkey, the one with the most
    tasks first. Bins without a judged task are left out.
    """
    width = PERIODS[hours]
    table = TaskTable(tasks, scale)
    phases = sorted(table.group("phase"), key=lambda group: -group.latest.assigned_at)
    validators = sorted(table.group("validator"), key=lambda group: -len(group.indices))
    total = table.summarise(table.everything)
    return {
        "now": now,
        "since": now - HOUR * hours,
        "hours": hours,
        "bin_seconds": width,
        "bands": [asdict(band) for band in scale.bands],
        "bands_explanation": scale.explanation,
        "total": _rate(total.rate) | {"tasks": total.tasks, "seconds": _quantiles(total.seconds)},
        "phases": [_phase(table, group, width) for group in phases],
        "validators": [_validator(table, group) for group in validators],
    }


def _rate(rate: AcceptanceRate) -> Json:
    low, high = rate.interval
    return {"accepted": rate.accepted, "rejected": rate.rejected, "rate": rate.share, "low": low, "high": high}


def _quantiles(quantiles: Quantiles | None) -> Json | None:
    return None if quantiles is None else asdict(quantiles)


def _phase(table: TaskTable, group: Group, width: int) -> Json:
    summary = table.summarise(group.indices)
    return {
        "name": group.latest.phase,
        "hash": group.latest.config_hash,
        "tasks": summary.tasks,
        "unanswered": summary.unanswered,
        **_rate(summary.rate),
        "verdict": str(summary.rate.rating),
        "score": summary.score,
        "quality": _quantiles(summary.quality),
        "text_alignment": _quantiles(summary.text_alignment),
        "image_alignment": _quantiles(summary.image_alignment),
        "seconds": _quantiles(summary.seconds),
        "gaussians": _quantiles(summary.gaussians),
        "stages": {stage: _quantiles(seconds) for stage, seconds in table.stages(group.indices).items()},
        "bins": [{"start": b.start} | _rate(b.rate) for b in table.bins(group.indices, width)],
    }


def _validator(table: TaskTable, group: Group) -> Json:
    summary = table.summarise(group.indices)
    return {
        "hotkey": group.key,
        "uid": group.latest.uid,
        "tasks": summary.tasks,
        "skipped": summary.skipped,
        "open": summary.other,
        "last_task": group.latest.assigned_at,
        **_rate(summary.rate),
    }
