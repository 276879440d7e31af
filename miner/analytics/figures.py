"""The ledger's tasks as the figures of the page: rates with intervals, over time, by phase and validator. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from miner.analytics.intervals import quantile, wilson_interval
from miner.analytics.rating import BANDS, verdict
from miner.ledger.reader import TaskRow

# The spans that the page offers, in hours, and the width in seconds of the bins that each is cut into.
SPANS = {6: 900, 24: 3600, 168: 6 * 3600, 720: 24 * 3600}

Json = dict[str, Any]


def figures(tasks: Sequence[TaskRow], now: float, hours: int) -> Json:
    """All figures of the tasks, in the order of their assignment; `hours` is one of SPANS.

    Phases are told apart by name and settings, the one that ran last first; validators by hotkey, the one with most
    tasks first. Bins without a judged task are left out.
    """
    width = SPANS[hours]
    by_phase, by_validator = defaultdict[tuple[str, str], list[TaskRow]](list), defaultdict[str, list[TaskRow]](list)
    for task in tasks:
        by_phase[task.phase, task.config_hash].append(task)
        by_validator[task.validator].append(task)
    phases = sorted(by_phase.items(), key=lambda item: -item[1][-1].assigned_at)
    validators = sorted(by_validator.items(), key=lambda item: -len(item[1]))
    return {
        "now": now,
        "since": now - 3600 * hours,
        "hours": hours,
        "bin_seconds": width,
        "bands": [{"name": band.name, "floor": band.floor} for band in BANDS],
        "total": _rate(tasks) | {"tasks": len(tasks), "seconds": _quantiles(t.generation_seconds for t in tasks)},
        "phases": [_phase(name, config_hash, members, width) for (name, config_hash), members in phases],
        "validators": [_validator(hotkey, members) for hotkey, members in validators],
    }


def _rate(tasks: Iterable[TaskRow]) -> Json:
    """Accepted among accepted and rejected, with the 95 % interval; None and 0..1 without data."""
    outcomes = [task.outcome for task in tasks]
    accepted, rejected = outcomes.count("accepted"), outcomes.count("rejected")
    judged = accepted + rejected
    low, high = wilson_interval(accepted, judged)
    rate = accepted / judged if judged else None
    return {"accepted": accepted, "rejected": rejected, "rate": rate, "low": low, "high": high}


def _quantiles(values: Iterable[float | None]) -> Json | None:
    found = np.array([value for value in values if value is not None])
    return {"p50": quantile(found, 0.5), "p95": quantile(found, 0.95)} if len(found) else None


def _phase(name: str, config_hash: str, tasks: Sequence[TaskRow], width: int) -> Json:
    rate = _rate(tasks)
    bins = defaultdict[float, list[TaskRow]](list)
    stages = defaultdict[str, list[float]](list)
    for task in tasks:
        bins[task.assigned_at // width * width].append(task)
        for stage, seconds in task.seconds.items():
            stages[stage].append(seconds)
    scores = [task.score for task in tasks if task.score is not None]
    over_time = ({"start": start} | _rate(members) for start, members in sorted(bins.items()))
    return {
        "name": name,
        "hash": config_hash,
        "tasks": len(tasks),
        **rate,
        "verdict": str(verdict(rate["accepted"], rate["accepted"] + rate["rejected"])),
        "score": sum(scores) / len(scores) if scores else None,
        "quality": _quantiles(task.local_score for task in tasks),
        "seconds": _quantiles(task.generation_seconds for task in tasks),
        "gaussians": _quantiles(task.gaussians for task in tasks),
        "stages": {stage: _quantiles(seconds) for stage, seconds in stages.items()},
        "bins": [one for one in over_time if one["rate"] is not None],
    }


def _validator(hotkey: str, tasks: Sequence[TaskRow]) -> Json:
    skipped = sum(task.outcome == "skipped" for task in tasks)
    rate = _rate(tasks)
    return {
        "hotkey": hotkey,
        "uid": tasks[-1].uid,
        "tasks": len(tasks),
        "skipped": skipped,
        "open": len(tasks) - rate["accepted"] - rate["rejected"] - skipped,
        "last_task": tasks[-1].assigned_at,
        **rate,
    }
