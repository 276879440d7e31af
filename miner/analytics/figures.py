"""The sums of tasks as JSON: the same names and numbers in the report and on the dashboard."""

from dataclasses import asdict
from typing import Any

from miner.analytics.aggregate import Bin, Summary
from miner.analytics.gate_summary import GateSummary
from miner.analytics.slots import break_even_chance
from miner.ledger import TaskRow

Json = dict[str, Any]


def summary_figures(summary: Summary) -> dict[str, float | None]:
    """Return the sum of a group of tasks; of what is sampled, the median."""
    rate, seconds = summary.rate, summary.seconds
    return {
        "tasks": summary.tasks, "accepted": rate.accepted, "rejected": rate.rejected,
        "skipped": summary.skipped, "other": summary.other, "rate": rate.share, "score": summary.score,
        "quality": summary.quality and summary.quality.p50,
        "text_alignment": summary.text_alignment and summary.text_alignment.p50,
        "image_alignment": summary.image_alignment and summary.image_alignment.p50,
        "seconds_p50": seconds and seconds.p50, "seconds_p95": seconds and seconds.p95,
        "gaussians_p50": summary.gaussians and summary.gaussians.p50,
    }  # fmt: skip


def rated_figures(summary: Summary) -> Json:
    """Return the sum of a group of tasks with how certain its rate is."""
    rate = summary.rate
    return {
        **summary_figures(summary),
        "judged": rate.judged,
        "interval": rate.interval,
        "verdict": str(rate.rating),
    }


def bin_figures(found: Bin) -> Json:
    """Return the sum of a bin."""
    rate = found.rate
    return {
        "start": found.start, "tasks": found.tasks, "accepted": rate.accepted, "judged": rate.judged,
        "rate": rate.share, "interval": rate.interval, "score": found.score, "seconds": found.seconds,
    }  # fmt: skip


def task_figures(task: TaskRow) -> Json:
    """Return what an operator asks of one task: where from, how made, and what became of it."""
    return {
        # As text, since JavaScript's numbers have only 53 bits.
        "key": str(task.key), "task_id": task.task_id, "assigned_at": task.assigned_at,
        "answered_at": task.answered_at, "validator": task.validator, "uid": task.uid, "type": task.task_type,
        "phase": task.phase, "hash": task.config_hash, "answer": task.outcome, "score": task.score,
        "estimated_score": task.estimated_score, "quality": task.quality, "gate": task.gate,
        "seconds": task.generation_seconds, "gaussians": task.gaussians, "error": task.error,
    }  # fmt: skip


def gate_figures(gate: GateSummary) -> Json:
    """Return the calibrations, the gate's decisions and the slots."""
    return {
        "calibrations": [
            {**c.kind._asdict(), **asdict(c.calibration), "brier": c.brier, "brier_of_mean": c.brier_of_mean}
            | {"bins": [asdict(b) | {"interval": b.interval} for b in c.bins]}
            for c in gate.calibrations
        ],
        "decisions": [asdict(counts) for counts in gate.counts],
        "accepted_share_of_slots": gate.slots.share,
        "break_even_chance": break_even_chance(gate.slots.share),
        "slots_by_phase": {label: asdict(slots) for label, slots in gate.phases},
    }
