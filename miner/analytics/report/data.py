"""The report as JSON and as CSV, for other programs."""

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from miner.analytics.aggregate import COMPARED, Summary
from miner.analytics.gate_summary import GateSummary
from miner.analytics.report.build import Report, ReportRow
from miner.analytics.slots import break_even_chance


def as_json(report: Report) -> str:
    """Write the report as one JSON object."""
    content = {
        "by": report.by,
        "since": report.since,
        "until": report.until,
        "total": _row(report.total),
        "groups": [_row(group) for group in report.groups],
        "differences": [asdict(difference) for difference in report.differences],
        "bin_seconds": report.bin_seconds,
        "bins": [{"start": b.start, "accepted": b.rate.accepted, "judged": b.rate.judged} for b in report.bins],
        "phases": [phase._asdict() for phase in report.phases],
        "experiments": [
            {"row": e.row._asdict(), "arms": e.arms, "decision": asdict(e.result), "state": e.result.state}
            for e in report.experiments
        ],
        "gate": _gate(report.gate),
        "ledger": str(report.ledger),
        "bands": {band.name: band.floor for band in report.scale.bands},
    }
    return json.dumps(_without_infinities(content), indent=1) + "\n"


def _figures(summary: Summary) -> dict[str, float | None]:
    """Return the columns that both formats share."""
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


def _row(row: ReportRow) -> dict[str, Any]:
    rate = row.summary.rate
    return {
        "key": row.key, "label": row.label, **_figures(row.summary), "interval": rate.interval,
        "verdict": str(rate.rating), "contrasts": [asdict(contrast) for contrast in row.contrasts],
        "judged": rate.judged,
    }  # fmt: skip


def _gate(gate: GateSummary) -> dict[str, Any]:
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


def _without_infinities(value: object) -> object:
    """Replace infinities, which JSON does not have, with null."""
    if isinstance(value, dict):
        return {key: _without_infinities(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def as_csv(report: Report) -> str:
    """Write a row for each group and one, "all", for their sum; of each column the medians and Cliff's delta."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    compared = [f"{name}_{suffix}" for name in COMPARED for suffix in ("accepted_median", "rejected_median", "delta")]
    writer.writerow(["label", "key", *_figures(report.total.summary), "low", "high", "verdict", *compared])
    for row in (*report.groups, report.total):
        rate = row.summary.rate
        cells = [
            value
            for contrast in row.contrasts
            for value in (contrast.accepted_median, contrast.rejected_median, contrast.effect and contrast.effect.delta)
        ]
        figures = _figures(row.summary).values()
        writer.writerow([row.label, row.key, *figures, *rate.interval, rate.rating, *(cells or [None] * len(compared))])
    return text.getvalue()
